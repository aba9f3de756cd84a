#!/usr/bin/env python3
"""Writes visq/inputs/unicode_tables.inc: the character classes that the `tokenizers` package implements.

Its regex engine follows Unicode 16, the system's PCRE2 an older version; so split patterns are rewritten into the
ranges measured here. Run again when a new release of the package moves to a newer Unicode version.
"""

import pathlib
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

# Every character that text can hold: surrogates cannot.
CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def matched_by_pattern(pattern: str, characters: list[str] = CHARACTERS) -> set[int]:
    """Code points among `characters` that a one-character pattern of the package's regex engine matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for start in range(0, len(characters), 1 << 16):
        pieces = split.pre_tokenize_str("".join(characters[start : start + (1 << 16)]))
        found.update(ord(piece) for piece, _ in pieces)
    return found


def word_characters() -> set[int]:
    """Code points beside which a `single_word` added token is not found: the \\w of the package's own matcher."""
    marker = "<>"
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken(marker, single_word=True, normalized=False)])
    marker_id = tokenizer.token_to_id(marker)
    found = set()
    for start in range(0, len(CHARACTERS), 1 << 14):
        block = CHARACTERS[start : start + (1 << 14)]
        encoding = tokenizer.encode(" ".join(c + marker for c in block))
        stride = len(marker) + 2
        matched = {o[0] // stride for i, o in zip(encoding.ids, encoding.offsets) if i == marker_id}
        found.update(ord(c) for i, c in enumerate(block) if i not in matched)
    return found


def numeric_characters() -> set[int]:
    """Code points that the Digits pre-tokenizer cuts at: of another Unicode version than the regex engine's."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    found = set()
    for start in range(0, len(CHARACTERS), 1 << 14):
        block = CHARACTERS[start : start + (1 << 14)]
        # A letter behind each character: only what is numeric then stands alone.
        pieces = digits.pre_tokenize_str("".join(c + "a" for c in block))
        found.update(ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a")
    return found


def ranges(points: set[int]) -> list[tuple[int, int]]:
    out: list[list[int]] = []
    for point in sorted(points):
        if out and out[-1][1] == point - 1:
            out[-1][1] = point
        else:
            out.append([point, point])
    return [(a, b) for a, b in out]


def table(name: str, points: set[int]) -> str:
    cells = [f"{{0x{a:X}, 0x{b:X}}}," for a, b in ranges(points)]
    lines, line = [], "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 110:
            lines.append(line)
            line = "   "
        line += " " + cell
    lines.append(line)
    return f"// {len(points)} characters\ninline constexpr CodeRange {name}[] = {{\n" + "\n".join(lines) + "\n};\n"


# Patterns of the regular expressions' properties and their tables.
PATTERNS = {
    "kLetters": r"\p{L}",
    "kUppercase": r"\p{Lu}",
    "kLowercase": r"\p{Ll}",
    "kTitlecase": r"\p{Lt}",
    "kModifierLetters": r"\p{Lm}",
    "kOtherLetters": r"\p{Lo}",
    "kMarks": r"\p{M}",
    "kNumbers": r"\p{N}",
    "kPunctuation": r"\p{P}",
    "kSymbols": r"\p{S}",
    "kDecimalDigits": r"\d",
    "kSpaces": r"\s",
}


def all_tables() -> dict[str, set[int]]:
    # Most code points are in none of them.
    some = [chr(point) for point in sorted(matched_by_pattern(f"[{''.join(PATTERNS.values())}]"))]
    tables = {table: matched_by_pattern(pattern, some) for table, pattern in PATTERNS.items()}
    tables |= {"kNumeric": numeric_characters(), "kWordCharacters": word_characters()}
    order = [*PATTERNS][:-1] + ["kNumeric", "kSpaces", "kWordCharacters"]
    return {name: tables[name] for name in order}


def main() -> None:
    default = pathlib.Path(__file__).parent.parent / "visq" / "inputs" / "unicode_tables.inc"
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    head = f"// Made by scripts/make_unicode_tables.py from tokenizers {tokenizers.__version__}; do not edit.\n"
    target.write_text(head + "\n".join(table(name, points) for name, points in all_tables().items()))


if __name__ == "__main__":
    main()
