"""Texts that show an int8 export what a decoder's activations are like: prose, code, talk, numbers, lists.

Written for this purpose. Several short texts, because a text's first token behaves unlike all others.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

_TEXTS = (
    (
        "The river was low that summer, and the children walked across it in the mornings to "
        "reach the mill. Nobody remembered a drier year. By August the wheel had stopped, and the "
        "miller sat on his wall with his pipe and told everyone who passed that rain would come "
        'with the new moon. "It never fails," he said. His wife, who had heard this in June and '
        "again in July, said nothing and went on mending the sacks.\n"
    ),
    (
        "def mean(values: list[float]) -> float:\n"
        '    """Return the arithmetic mean of the values.\n'
        "\n"
        "    >>> mean([1.0, 2.0, 3.0])\n"
        "    2.0\n"
        '    """\n'
        "    if not values:\n"
        '        raise ValueError("no values")\n'
        "    return sum(values) / len(values)\n"
        "\n"
        "\n"
        "class Stack:\n"
        "    def __init__(self):\n"
        "        self.items = []\n"
        "\n"
        "    def push(self, item):\n"
        "        self.items.append(item)\n"
        "\n"
        "    def pop(self):\n"
        "        return self.items.pop() if self.items else None\n"
    ),
    (
        "Question: How do plants make their food?\n"
        "Answer: Plants make their own food by photosynthesis. They take in carbon dioxide from "
        "the air and water from the soil, and use the energy of sunlight to turn them into sugar "
        "and oxygen. The green colour of the leaves comes from chlorophyll, which catches the "
        "light.\n"
        "\n"
        "Question: Could you help me plan a small garden?\n"
        "Answer: Of course! Here are a few things to think about:\n"
        "1. **Light**: most vegetables need six hours of sun a day.\n"
        "2. **Soil**: mix in some compost before you plant.\n"
        "3. **Water**: in the morning is best.\n"
    ),
    (
        "In 1969, 3 people flew 384,400 km to the Moon; 2 of them walked on it for 2 hours and 31 "
        "minutes. Prices rose by 4.5% in March and fell by 1.2% in April: is that $12.50 or $13? "
        '"I do not know," she said, "but we\'ll see." The city has 812,000 inhabitants, an old '
        "university, two rivers and a port, and lies 40 miles north of the border.\n"
        "\n"
        "- first, wash the rice\n"
        "- then boil it for 12 minutes\n"
        "- let it rest\n"
        "\n"
        "| name | size | price |\n"
        "| --- | --- | --- |\n"
        "| apple | 3 | 0.40 |\n"
    ),
)


def calibration_tokens(tokenizer_json: str, max_context: int) -> Sequence[Sequence[int]]:
    """The texts as token ids, none longer than the decoder's context; may be empty for odd vocabularies."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    encoded = (tokenizer.encode(text).ids[:max_context] for text in _TEXTS)
    return [ids for ids in encoded if ids]
