"""Every statement this library runs, one file per subject, each beside its reading."""
