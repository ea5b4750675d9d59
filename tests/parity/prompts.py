"""The 20 prompts of the greedy references: texts and chats of our own, and HumanEval tasks by index."""

from typing import Final, TypedDict


class ChatMessage(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


TEXTS: Final = (
    "The quick brown fox",
    "def fibonacci(n):",
    "Once upon a time, in a harbour town at the edge of the map,",
    "The three primary colours are",
    'import numpy as np\n\n\ndef softmax(x: np.ndarray) -> np.ndarray:\n    """Stable softmax."""\n',
    '{"name": "Ada", "year": 1815, "tags": ["',
    "SELECT name, count(*) AS orders\nFROM customers\n",
    "In 2024, 17 of 1,250 samples (1.36 %) failed; in 2025,",
    "La musique est une langue que",
    "東京は日本の首都で、",
)

CHATS: Final[tuple[tuple[ChatMessage, ...], ...]] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    ({"role": "user", "content": "Write a haiku about rain on a tin roof."},),
    (
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ),
    (
        {"role": "user", "content": "My cat is called Miso. 🐈"},
        {"role": "assistant", "content": "What a lovely name! How old is Miso?"},
        {"role": "user", "content": "She is 3. Suggest a toy, and say her name."},
    ),
)

HUMAN_EVAL_INDICES: Final = (0, 7, 31, 64, 100, 163)
