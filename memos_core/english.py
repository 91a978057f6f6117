"""The words of English by which rules tell what a sentence claims.

Each list names what is let in: what it lacks is left alone.
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Before the subject, and anywhere: they add nothing that a rule could compare.
OPENERS = _set("yes yeah yep no nope well oh ok okay so and but also actually sorry hey hi hello")
ADVERBS = _set("really definitely certainly absolutely just also too still already")
# What they mean depends on the place, the day, or what was said before; or they make it less sure.
CONTEXT = _set(
    """
    he she it they him her them his hers its their theirs himself herself itself themselves this
    that these those there here then ones other others another same such which who whose what
    where when while how why if unless because until before after since you your yours yourself
    today tonight yesterday tomorrow morning afternoon evening night weekend week month monday
    tuesday wednesday thursday friday saturday sunday ago last next soon later recently lately again
    maybe perhaps probably possibly almost nearly about around sometimes often usually or but
    would could should might may will shall did was were had been else enough only even both
    """
)
FIRST_PERSON = _set("i me my mine myself we us our ours ourselves")

# Verbs of lasting states and habits, by their forms in the present tense.
_REGULAR = _set(
    """
    have live work study like love hate dislike enjoy prefer own weigh earn speak play eat drink
    smoke use drive
    """
)
VERBS = {
    **{verb: verb for verb in _REGULAR},
    **{f"{verb}s": verb for verb in _REGULAR},
    "am": "be",
    "is": "be",
    "are": "be",
    "has": "have",
    "studies": "study",
}
COUNTING = _set("be have own weigh earn speak drink eat smoke use")  # "I smoke 5 a day"
AMOUNTS = _set("weigh earn")  # nothing without a number
ALONE = _set("smoke drink drive")  # they need no object
LINKS = {
    "live": _set("in at on with near alone"),
    "work": _set("in at for as from with"),
}
ABLE_ALONE = _set("swim ski dance sing cook drive ride")  # what one can or cannot do
ABLE = ABLE_ALONE | _set("eat drink speak play read write")
# Verbs after which two numbers exclude each other, whoever or whatever has them.
MEASURES = _set(
    """
    am is are has have own owns weigh weighs earn earns owe owes pay pays cost costs take takes
    start starts open opens close closes contain contains leave leaves
    """
)

# What one is for long, what one has for long, and what is soon over ("I am a bit tired").
TRAITS = _set(
    """
    vegetarian vegan pescatarian married single divorced widowed retired unemployed pregnant
    diabetic asthmatic left-handed right-handed colorblind colourblind dyslexic deaf blind jewish
    christian muslim buddhist hindu catholic atheist gay lesbian bisexual allergic
    lactose-intolerant
    """
)
LASTING = _set(
    """
    child children kid son daughter brother sister sibling twin grandchild grandchildren dog cat pet
    horse car bike bicycle motorcycle boat house flat apartment garden diabetes asthma allergy
    allergie epilepsy dyslexia degree
    """
)
PASSING = _set("bit little lot few couple mess fan guest moment hurry")

# Whom one has one of, what everyone has one of, and of which several there are without the word
# before; what can be a favourite, and the names of it are no names.
KIN = _set(
    """
    wife husband partner girlfriend boyfriend fiance fiancé fiancée mother mom mum father dad boss
    """
)
ATTRIBUTES = _set(
    """
    name surname nickname email e-mail address birthday age height weight salary nationality
    hometown birthplace employer number size type
    """
)
MANY = _set("number size type")
MODIFIERS = _set(
    "first last middle full given family phone mobile cell home work email e-mail postal shoe blood"
)
FAVOURITES = _set("colour animal fruit sport season subject instrument flower")
BRITISH = {"favorite": "favourite", "color": "colour"}

NUMBERS = _set(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand million
    """
)
ARTICLES = _set("a an any")
AGE = ((), ("years", "old"), ("year", "old"), ("years", "of", "age"))
DANGLING = _set("to in at on for with of from one")  # "I love to": what, was said before
JOINED = _set("and with near in at for")
UNNAMED = JOINED | _set("a an my our")
