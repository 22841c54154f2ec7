"""A compiled program as computations of instructions, read from its text."""

import dataclasses
import re

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+))"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its name, the type of its result, the operation, and the text after that."""

    name: str
    type: str
    operation: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names before the closing parenthesis of the operands."""
        depth, end = 1, len(self.rest)
        for place, letter in enumerate(self.rest):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                end = place
                break
        return _NAME.findall(self.rest[:end])

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        found = _BRANCHES.search(self.rest)
        named = (found[1].split(",") if found[1] else [found[2], found[3]]) if found else []
        return [name.strip().lstrip("%") for name in named]


def computations_of(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the one that the program enters."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            computations[current].append(Instruction(*found.groups()))
    return computations, entry
