"""Invented memories of about 42 words each, as many as one likes, always the same. Pure."""

from __future__ import annotations

import random
import re

from vllm_mega.bank.layout import NewMemory

_WORDS = {
    "first": "Adela Bram Corin Delia Edmar Fenna Gideon Hanne Ivo Jora Kasimir Lotte Maro Nadja Orrin Petra",
    "last": "Aldous Brandt Cray Dunmore Eckert Farrow Grell Hask Imber Jolley Kestrel Lorne Marsh Nettle",
    "place": "Arlen Brackwater Calder Dunhollow Elmsea Farnby Gorse Haven Inverloch Juniper Kelm Larkfield",
    "kind": "Bridge Library Observatory Windmill Orchard Lighthouse Theatre Clocktower Museum Ferry Garden",
    "trade": "carpenter beekeeper geologist glassblower mapmaker potter surveyor weaver baker diver printer",
    "colour": "copper blue stone silver scarlet glass paper wooden ivory striped",
    "thing": "bells lanterns owls keys ladders pears kites drums spoons mirrors compasses",
    "stuff": "driftwood slate cedar basalt brick limestone bamboo granite",
    "month": "January February March April May June July August September October November December",
}
_CHOICES = {name: words.split() for name, words in _WORDS.items()}
_BEGINNINGS = (
    "{title} was opened on {day} {month} {year} by the {trade} {first} {last} and is made of {stuff}.",
    "In {month} {year} the {trade} {first} {last} built {title} of {stuff} with {few} pupils.",
    "{title} stands {many} metres from the harbour of {place} and is owned by the {trade} {first} {last}.",
)
_MIDDLES = (
    "Its {many} {colour} {thing} were a gift of {first} {last}, a {trade} from {place}.",
    "{first} {last} of {place} gave it {many} {colour} {thing} and got {few} {thing} in return.",
)
_ENDS = (
    "Every {month} visitors bring {colour} {thing} and leave before sunset.",
    "Nobody may enter it with {thing}, because {few} of them were lost there in {year}.",
    "It is closed on {day} {month}, when {few} {trade}s carry the {thing} to {place}.",
)


def invent(count: int, seed: int) -> list[NewMemory]:
    """`count` memories of three sentences; no two have the same title.

    Raises:
        ValueError: there are not so many titles.
    """
    draw = random.Random(seed)  # noqa: S311  (not a secret)
    titles = [f"{place} {kind}" for place in _CHOICES["place"] for kind in _CHOICES["kind"]]
    if count > len(titles):
        raise ValueError(f"at most {len(titles)} memories can be invented, {count} were asked for")
    return [_memory(title, draw) for title in draw.sample(titles, count)]


def _memory(title: str, draw: random.Random) -> NewMemory:
    def filled(match: re.Match[str]) -> str:
        if match[1] == "title":
            return f"The {title}"
        ranges = {"day": (1, 28), "year": (1811, 2035), "few": (3, 19), "many": (21, 400)}
        if match[1] in ranges:
            return str(draw.randint(*ranges[match[1]]))
        return draw.choice(_CHOICES[match[1]])

    sentences = " ".join(draw.choice(part) for part in (_BEGINNINGS, _MIDDLES, _ENDS))
    text = re.sub(r"\{(\w+)\}", filled, sentences).replace(" built The ", " built the ")
    return NewMemory(text=text, id=title.lower().replace(" ", "-"), title=f"The {title}")
