"""Questions to a chat model: open ones, and some whose answers repeat much of what they were given."""

_HISTORY = (
    "The industrial revolution began in Britain in the late eighteenth century. It changed how goods were "
    "made and moved work from homes to factories. Steam engines powered machines, railways carried goods, "
    "and cities grew quickly as people moved to find work."
)
_MESSAGE = (
    "hey, can you send me the report by friday? i need it for the meeting, and it is super important that "
    "we do not forget the numbers for march."
)
_CODE = """\
def mean(values):
    total = 0
    for value in values:
        total =+ value
    return total / len(values)


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
"""

QUESTIONS = (
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "List the planets with one fact each.",
    "Explain recursion to a child.",
    "How do I boil an egg?",
    "What are the benefits of regular exercise?",
    "Compare Python and Java in a table.",
    "Give me a JSON object with name, age and city for three people.",
    "Write a SQL query that counts orders per customer.",
    "Write an email declining a meeting invitation.",
    "Write a short story about a robot who learns to paint.",
    "What is photosynthesis?",
    "Translate to French: The cat sits on the mat and looks at the dog.",
    f"Summarise in two sentences: {_HISTORY}",
    f"Rewrite this in a formal tone: {_MESSAGE}",
    f"Fix the bug in this code and print all of it:\n{_CODE}",
)
