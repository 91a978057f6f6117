"""Every error this library raises.

MemOSError
├── InvalidInput (ValueError)    what was passed cannot be stored or asked
│   ├── SensitiveText            holds what the rules of its namespace refuse
│   ├── InvalidText              empty, too long, NUL bytes, lone surrogates
│   ├── InvalidNamespace         no labels, too many, an illegal one
│   ├── InvalidFilter            an unknown operator or an incomparable value
│   └── InvalidVector            an embedder gave NaN, zeros or the wrong shape
├── CubeNotFound (LookupError)   no such cube (or version) in this view
├── CubeExists                   the id is taken
├── CubeFrozen                   a frozen cube refuses every change
├── IllegalTransition            a cube cannot pass from its state to the one asked for
├── NotPermitted                 the caller may see it, and may not do this with it
├── LimitExceeded                a namespace's limit of size or rate is reached
├── VersionConflict              the cube changed since it was read
├── EmbedderMismatch             the database was filled by another embedding model
├── EmbedderUnavailable          the embedding model cannot be loaded
├── RulesChanged                 a pipeline's namespace got other rules meanwhile
├── PipelineFailed               a verb of a pipeline failed; nothing of it happened
├── ArchiveError                 an archive file could not be read or written
│   ├── ArchiveInvalid           it is damaged, altered, hostile, or of another format
│   ├── ArchiveNotRead           it cannot be opened or read
│   └── ArchiveNotWritten        it could not be written; none was left, an older one stands
├── ModelError                   a language model cannot do it with what it was given
│   ├── ModelUnsupported         its memory of a text is no KV cache, or it cannot be trained
│   ├── CacheMismatch            a KV cache was made by or for something else
│   ├── CacheCorrupt             a stored KV cache is damaged; it is computed anew
│   ├── CacheNotWritten          a KV cache could not be stored: a full disk, a missing right
│   ├── CacheRefused             a KV cache does not say what the text says, and is not served
│   └── ContextTooLong           memory, messages and answer do not fit the model's context
├── Closed                       the MemOS was closed
└── StoreError                   the database could not do it; nothing was written
    ├── StoreUnavailable         no connection to the server
    ├── PoolExhausted            every pooled connection stayed busy
    ├── TransactionCollided      it collided with another transaction: try again
    ├── StatementTimeout         a statement ran past its time limit
    ├── UnsupportedServer        PostgreSQL or pgvector is too old or missing
    ├── MigrationError           a schema migration failed and was rolled back
    └── ServerStartError         the embedded server did not start
"""


class MemOSError(Exception):
    """The root of all errors of this library."""


class InvalidInput(MemOSError, ValueError):
    """What was passed cannot be stored or asked."""


class InvalidText(InvalidInput):
    """A text is empty, too long, or holds characters no database can keep."""


class SensitiveText(InvalidInput):
    """A text holds ``kinds`` that the rules of its namespace refuse; nothing was stored."""

    def __init__(self, message: str, *, kinds: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.kinds = kinds


class InvalidNamespace(InvalidInput):
    """A namespace has no labels, too many, or an illegal one."""


class InvalidFilter(InvalidInput):
    """A metadata filter has an unknown operator or a value it cannot compare."""


class InvalidVector(InvalidInput):
    """An embedder returned something that is not finite non-zero vectors of one width."""


class CubeNotFound(MemOSError, LookupError):
    """No such cube, or no such version of it, is visible in this view."""


class CubeExists(MemOSError):
    """A cube with this id is already stored."""


class CubeFrozen(MemOSError):
    """The cube is frozen; nothing was changed."""


class IllegalTransition(MemOSError):
    """A cube cannot pass from the state it is in to the one asked for; nothing was changed."""


class NotPermitted(MemOSError):
    """The caller may see a cube, and not do this with it; nothing was changed."""


class LimitExceeded(MemOSError):
    """A ``limit`` that was set for the namespace is reached; nothing was done."""

    def __init__(self, message: str, *, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class VersionConflict(MemOSError):
    """The cube changed since the caller read it; nothing was written."""


class EmbedderMismatch(MemOSError):
    """The database was filled by another embedding model."""


class EmbedderUnavailable(MemOSError):
    """The embedding model cannot be loaded."""


class RulesChanged(MemOSError):
    """The rules of a namespace changed while something was written by them; try again."""


class PipelineFailed(MemOSError):
    """A verb of a pipeline failed in the database; nothing of the pipeline happened."""


class ArchiveError(MemOSError):
    """An archive could not be read or written."""


class ArchiveInvalid(ArchiveError):
    """A file is no archive as docs/archive-format.md describes it, or exceeds the limits."""


class ArchiveNotRead(ArchiveError):
    """The file cannot be opened or read."""


class ArchiveNotWritten(ArchiveError):
    """The archive could not be written: no file was left, and an older one is as it was."""


class ModelError(MemOSError):
    """A language model cannot do what was asked with what it was given."""


class ModelUnsupported(ModelError):
    """A model's architecture does not allow it."""


class CacheMismatch(ModelError):
    """A KV cache is of another model, tokenizer, template or prefix; it was not used."""


class CacheCorrupt(ModelError):
    """A stored KV cache is cut short or altered; it was not used."""


class CacheNotWritten(ModelError):
    """A KV cache could not be written to disk; no part of it was left."""


class CacheRefused(ModelError):
    """A KV cache differs from a full prefill by more than is allowed; it was not kept."""


class ContextTooLong(ModelError, ValueError):
    """Memory, messages and answer are longer than the model's context window."""


class Closed(MemOSError):
    """The MemOS was closed before this call."""

    def __init__(self, message: str = "this MemOS is closed: open it again") -> None:
        super().__init__(message)


class StoreError(MemOSError):
    """The database could not carry out the verb; nothing was written."""


class StoreUnavailable(StoreError):
    """There is no connection to the server."""


class PoolExhausted(StoreError):
    """Every pooled connection stayed busy for the whole wait."""


class TransactionCollided(StoreError):
    """A transaction collided with another and was rolled back; try again."""


class StatementTimeout(StoreError):
    """A statement ran past its time limit and was cancelled."""


class UnsupportedServer(StoreError):
    """PostgreSQL or pgvector is too old or missing."""


class MigrationError(StoreError):
    """A schema migration failed and was rolled back."""


class ServerStartError(StoreError):
    """The embedded server did not start."""


# What a model that calls a tool can mend by asking otherwise; the rest is for the application.
REFUSALS = (
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    LimitExceeded,
    NotPermitted,
    VersionConflict,
)
