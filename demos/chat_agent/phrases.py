"""What guests say, and what the barista can reply. Knows nothing of how either is chosen."""

from __future__ import annotations

from functools import cache

__all__ = ["DRINKS", "INTENTS", "PHRASES", "REPLIES", "SMALL_TALK", "intent_of"]

DRINKS = ("green tea", "black coffee", "hot cocoa", "lemonade")

# Intent -> (phrasings of the guests who train the barista, phrasings that it meets only afterwards).
PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "greeting": (
        ("Hello!", "Hi there!", "Good morning!", "Hello again!", "Hi, good to see you!", "Good morning to you!"),
        ("Hi, good morning!", "Hello there!"),
    ),
    "taste": (
        ("My favourite drink is {drink}.", "My preferred drink is {drink}.", "Well, my favourite drink is {drink}."),
        ("You know, my favourite drink is {drink}.", "By the way, my preferred drink is {drink}."),
    ),
    "hours": (
        (
            "When do you close?",
            "How late are you open today?",
            "What are your opening hours?",
            "Are you open late?",
            "When do you open?",
        ),
        ("How late do you close?", "When are you open?"),
    ),
    "order": (
        (
            "Which drink would you recommend?",
            "What drink should I have?",
            "Can you suggest a drink for me?",
            "Please bring me the drink I like.",
            "Any drink you would suggest?",
        ),
        ("Which drink should I have?", "Can you recommend a drink I like?"),
    ),
    "complaint": (
        ("No, that is not for me. Which other drink do you suggest?", "Not that one, please. Another drink?"),
        ("No, not that drink, please. What else do you suggest?",),
    ),
    "thanks": (
        ("Perfect, thank you, bye!", "Thanks, see you!", "Wonderful, thanks a lot!", "Great, thank you, see you soon!"),
        ("Thanks a lot, bye!", "Wonderful, thank you, see you!"),
    ),
}

SMALL_TALK = {
    "chatty": ("", "Lovely weather! "),
    "terse": ("",),
    "impatient": ("",),
}

INTENTS = ("greeting", "taste", "hours", "order", "thanks")
"""What the barista tells apart; a complaint is an order."""

REPLIES = {
    "greeting": "Welcome! Nice to see you.",
    "taste": "Noted, I will remember that.",
    "hours": "We are open from 8 to 18 o'clock.",
    "order": "I recommend our {drink}.",
    "thanks": "You are welcome, goodbye!",
}


@cache
def intent_of(message: str) -> str:
    """What a guest wants with ``message``, one of :data:`INTENTS`; small talk may stand before it.

    Raises:
        ValueError: no guest says this.
    """
    for intent, (trained, new) in PHRASES.items():
        for phrase in (*trained, *new):
            if any(message.endswith(phrase.format(drink=drink)) for drink in DRINKS):
                return "order" if intent == "complaint" else intent
    raise ValueError(f"no guest says {message!r}")
