r"""The symbols in a formula: letters with their accents, primes and scripts.

LaTeX is not interpreted: one expression finds letters, in whatever groups and commands they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from dnrlib.book.prose import DIRECTIVE, MYST, VERBATIM

_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "pi rho varrho sigma tau upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_GREEK_LETTER = rf"\\(?:{'|'.join(_GREEK.split())})(?![A-Za-z])"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_COMMAND = r"\\[A-Za-z]+\*?"
_STYLED = rf"\\(?:text|math|operatorname)[a-z]*\*?\s*(?:{_GROUP}|[A-Za-z])"
_ARGUMENT = rf"(?:{_STYLED}|{_GROUP}|{_COMMAND}|[^\s\\])"
_SCRIPTS = rf"(?:\s*(?:'+|[_^]\s*{_ARGUMENT}))*"
_ACCENT = r"\\(?:widehat|hat|widetilde|tilde|bar|overline|dot|vec)(?![A-Za-z])"
_LETTER = rf"{_GREEK_LETTER}|\\ell(?![A-Za-z])|\\mathcal\s*(?:{_GROUP}|[A-Za-z])|[A-Za-z]"
_SYMBOL = (
    rf"(?P<accent>{_ACCENT})?\s*(?P<open>\{{\s*)?"
    rf"(?P<letter>{_LETTER})(?P<inner>{_SCRIPTS})\s*(?(open)\}}|)(?P<outer>{_SCRIPTS})"
)
_WORD = rf"\\(?:mathrm|operatorname\*?)\s*(?P<word>{_GROUP})"
# no symbols: π in 2π, a single letter in blackboard or upright type, text
_PASSED_OVER = (
    r"2\s*\\pi(?![A-Za-z])|\\math(?:bb|rm)\s*(?:[A-Za-z]|\{[A-Za-z]\})"
    rf"|\\(?:text[a-z]*|mathbb|begin|end|label|tag)\s*{_GROUP}"
)
_TOKEN = re.compile(rf"{_PASSED_OVER}|{_WORD}|{_SYMBOL}|{_COMMAND}|\\.")
_SCRIPT = re.compile(rf"(?P<primes>'+)|(?P<mark>[_^])\s*(?P<argument>{_ARGUMENT})")
_STYLE = re.compile(r"\\(?:text|math|operatorname)[a-z]*(?![A-Za-z])\*?|\\[,;:! ]|[{}\s]")
_INDEX = re.compile(r"(?:[ijklmnrtu\d+-]|\\ell)+")
_KNOWN_TO_ALL = {"\\mathcalN", "\\mathcalO", "\\mathcalU"}


@dataclass(frozen=True)
class Symbol:
    """A letter, or a word such as KL, with what is put on it.

    Args:
        written: as the formula has it.
        letter: a letter, a command such as ``\\lambda``, or a word.
        accent, primes, lower, upper: what stands over, behind, below and above it; the same for
            every way to write it in LaTeX.
    """

    written: str
    letter: str
    accent: str = ""
    primes: str = ""
    lower: str = ""
    upper: str = ""

    @property
    def name(self) -> str:
        """The same for all that are the same symbol, and only for these."""
        return _name(self.accent, self.letter, self.primes, self.lower, self.upper)

    def names(self) -> Iterator[str]:
        """Its name, then names without exponent, indices, prime and accent; of a Greek letter bare.

        So ``\\hat L_{z,i}^2`` may be explained by what explains ``L_z``.
        """
        choices = product(
            (self.accent, ""),
            (self.primes, ""),
            (self.lower, _without_indices(self.lower)),
            (self.upper, ""),
        )
        for accent, primes, lower, upper in choices:
            yield _name(accent, self.letter, primes, lower, upper)
        if self._is_greek:
            yield self.letter

    @property
    def must_be_explained(self) -> bool:
        """Whether no reader can be expected to know it."""
        if self.letter.startswith("\\mathcal"):
            return self.letter not in _KNOWN_TO_ALL
        named = self.letter in ("L", "p", "q") and _without_indices(self.lower)
        return bool(named) or self._is_greek

    @property
    def _is_greek(self) -> bool:
        return re.fullmatch(_GREEK_LETTER, self.letter) is not None


def _name(accent: str, letter: str, primes: str, lower: str, upper: str) -> str:
    return accent + letter + primes + (lower and f"_{lower}") + (upper and f"^{upper}")


def _without_indices(lower: str) -> str:
    # dropped with them: scripts of scripts, primes, and values, as in p_{x | z = 1}
    parts = (re.sub(r"[_^=][^|]*|['*]", "", part) for part in lower.split(","))
    return ",".join(part for part in parts if part and not _INDEX.fullmatch(part))


def symbols_of(formula: str) -> Iterator[Symbol]:
    """The symbols in a formula, in order, repeated as often as they occur."""
    for match in _TOKEN.finditer(formula):
        if match["word"]:
            yield Symbol(match.group(), _plain(match["word"]))
        elif match["letter"]:
            scripts = [*_SCRIPT.finditer(match["inner"] + match["outer"])]
            yield _symbol(match, scripts)
            for script in scripts:
                if script["mark"] == "^":
                    yield from symbols_of(script["argument"])


def _symbol(match: re.Match[str], scripts: list[re.Match[str]]) -> Symbol:
    text = {
        mark: ",".join(_plain(script["argument"]) for script in scripts if script["mark"] == mark)
        for mark in "_^"
    }
    primes = sum(len(script["primes"] or "") for script in scripts) + text["^"].count(r"\prime")
    return Symbol(
        written=match.group().strip(),
        letter=_letter(match["letter"]),
        accent=(match["accent"] or "").replace("wide", ""),
        primes="'" * primes,
        lower=text["_"],
        upper=text["^"].replace(r"\prime", ""),
    )


def _letter(text: str) -> str:
    return re.sub(r"[{}\s]", "", text).replace(r"\epsilon", r"\varepsilon")


def _plain(script: str) -> str:
    """A script without fonts, braces and spaces: of `{\\text{direct}}`, `direct`."""
    return _STYLE.sub("", re.sub(r"\\(?:mid|vert)(?![A-Za-z])", "|", script))


def formulas(text: str) -> Iterator[str]:
    """The formulas of MyST text, in order, those within directives too."""
    for token in MYST.parse(text):
        if token.type.startswith("math_block") or token.type == "amsmath":
            yield token.content
        elif token.type == "inline":
            yield from (c.content for c in token.children or [] if c.type.startswith("math_inline"))
        elif token.type in ("fence", "colon_fence"):
            directive = DIRECTIVE.match(token.info)
            if directive and directive["name"] == "math":
                yield token.content
            elif directive and directive["name"] not in VERBATIM:
                yield from formulas(directive["title"])
                yield from formulas(token.content)
