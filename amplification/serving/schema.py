"""JSON schemas as masks over a model's own tokens, the same in every back end that holds its tokenizer.

The grammar is xgrammar's. Two things are added for tokenizers whose tokens are words: the space that stands before
each of them, and that no token is allowed from which there is no way to the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from amplification.errors import InputError

if TYPE_CHECKING:
    import numpy

WHERE = "json_schema"
# What xgrammar 0.2 keeps. It passes over anything else in silence, so that is refused.
NOTES = frozenset(("title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"))
BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"))
PARTS = frozenset(("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"))
# Of these it keeps only the one, whatever stands beside it.
ALONE = ("$ref", "const", "enum", "anyOf", "pattern")
# With more white space between tokens than this, a model can go on with it until it is cut off.
MOST_SPACES = 1
SPACE = 0x20
# Up to this many allowed tokens, each is checked for a way to the end; where more are, the text is free.
CHOICES = 64
# States looked at, at most, in search of a way to the end; beyond, there is taken to be one.
FUEL = 4_000


class Schemas:
    """The schemas compiled for one tokenizer. `vocabulary` is the number of the model's token ids."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self._compiler: Any = None
        self._compiled: dict[str, _Compiled] = {}

    def guide(self, schema: str) -> Guide:
        """A fresh guide for one completion.

        Raises InputError for a text that is no schema, for keywords that cannot be kept, and for a schema that the
        tokenizer's tokens cannot express.
        """
        if schema not in self._compiled:
            if self._compiler is None:
                import xgrammar

                self._compiler = xgrammar.GrammarCompiler(_tokens(self.tokenizer, self.vocabulary), max_threads=1)
            self._compiled[schema] = _Compiled(schema, self._compiler)
        return Guide(self._compiled[schema])


class _Compiled:
    """One schema for one tokenizer, and what is known of which states lead to an end."""

    def __init__(self, schema: str, compiler: Any) -> None:
        import xgrammar

        self.grammar = compiler.compile_grammar(_grammar(schema))
        # With a token for every byte each text can be written, and no choice of tokens leads nowhere.
        self.complete = _has_all_bytes(self.grammar.tokenizer_info)
        vocabulary = self.grammar.tokenizer_info.vocab_size
        self._row = xgrammar.allocate_token_bitmask(1, vocabulary)
        # The library leaves the bits beyond the vocabulary as they were.
        self._last = (1 << (vocabulary - 1) % 32 + 1) - 1 if vocabulary % 32 else -1
        self._ends: dict[bytes, bool] = {}
        if not self.complete and not self.leads_to_end(xgrammar.GrammarMatcher(self.grammar)):
            problem = "the model's tokenizer has no tokens to write such JSON with"
            raise InputError(WHERE, problem, "choose another schema or another model")

    def mask(self, state: Any) -> bytes:
        words = self._row.numpy()[0]
        words.fill(-1)
        state.fill_next_token_bitmask(self._row)
        words[-1] &= self._last
        return bytes(words.tobytes())

    def leads_to_end(self, state: Any) -> bool:
        """Whether some tokens from here complete the JSON. States with one mask are taken for the same."""
        mask = self.mask(state)
        if mask not in self._ends:
            self._ends[mask] = self._search(state, mask)
        return self._ends[mask]

    def _search(self, state: Any, mask: bytes) -> bool:
        """Breadth first; states of one depth with one mask count as one, those of different depths do not."""
        level, fuel = {mask: state}, FUEL
        while level:
            after: dict[bytes, Any] = {}
            for one_mask, one in level.items():
                if one.is_completed():
                    return True
                places = _places(one_mask)
                fuel -= len(places)
                if fuel < 0:
                    return True
                for token in places:
                    child = one.fork()
                    if child.accept_token(token):
                        after.setdefault(self.mask(child), child)
            level = after
        return False


class Guide:
    """What may come next in one completion, from its tokens so far."""

    def __init__(self, compiled: _Compiled) -> None:
        import xgrammar

        self._compiled = compiled
        self._state = xgrammar.GrammarMatcher(compiled.grammar)

    @property
    def ended(self) -> bool:
        """Whether the end token was accepted."""
        return bool(self._state.is_terminated())

    def accept(self, token: int) -> bool:
        """Go on by one token; whether the schema allows it."""
        return not self.ended and bool(self._state.accept_token(token))

    def mask(self) -> bytes:
        """One bit a token id, least significant bit first, in whole words of 32: what may come next."""
        mask = self._compiled.mask(self._state)
        choices = [] if self._compiled.complete or self._state.is_completed() else _places(mask)
        if not 1 < len(choices) <= CHOICES:
            return mask
        kept = bytearray(len(mask))
        for token in choices:
            after = self._state.fork()
            if after.accept_token(token) and self._compiled.leads_to_end(after):
                kept[token // 8] |= 1 << token % 8
        return bytes(kept)


def unpacked(mask: bytes, width: int) -> numpy.ndarray[Any, Any]:
    """A mask as booleans [width]; token ids beyond the mask are forbidden."""
    import numpy

    bits = numpy.unpackbits(numpy.frombuffer(mask, numpy.uint8), bitorder="little")[:width]
    return numpy.pad(bits, (0, width - len(bits))).astype(bool)


def _places(mask: bytes) -> list[int]:
    return [8 * i + bit for i, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]


def _grammar(schema: str) -> Any:
    import xgrammar

    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise InputError(WHERE, f"is not JSON ({error})", "give a JSON schema as text") from None
    if not isinstance(parsed, dict):
        raise InputError(WHERE, "is not a JSON object", "give a JSON schema as text")
    for part in _parts(parsed):
        _check_kept(part)
    try:
        rules = xgrammar.Grammar.from_json_schema(schema, any_whitespace=True, max_whitespace_cnt=MOST_SPACES)
    except Exception as error:  # the library raises RuntimeError, with its own source file in front
        problem = str(error).strip().splitlines()[0].partition(": ")[2]
        raise InputError(WHERE, f"is not a schema ({problem})", "correct it") from None
    # A tokenizer of words puts a space before each of them, the first too; completions are stripped.
    return xgrammar.Grammar.concat(xgrammar.Grammar.from_ebnf('root ::= " "?'), rules)


def _check_kept(schema: dict[str, Any]) -> None:
    keys = [key for key in schema if key not in NOTES and key != "type"]
    unknown = next((key for key in keys if key not in BOUNDS | PARTS and key not in ALONE), None)
    if unknown is not None:
        raise InputError(WHERE, f"'{unknown}' cannot be kept", "leave it out, and check the answer instead")
    missing = set(schema.get("required", ())) - set(schema.get("properties", {}))
    if missing:
        raise InputError(WHERE, f"'{min(missing)}' is required and no property", "say under 'properties' what it is")
    if "type" not in schema and BOUNDS.intersection(keys):
        raise InputError(WHERE, "a bound without a 'type' cannot be kept", "name the type")
    alone = next((key for key in ALONE if key in keys), None)
    if alone is not None and len(keys) > 1:
        other = next(key for key in keys if key != alone)
        raise InputError(WHERE, f"'{other}' cannot be kept beside '{alone}'", "leave one of them out")


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas inside it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        inner: Iterable[Any] = ()
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            inner = value.values()
        elif key in ("items", "prefixItems", "anyOf", "additionalProperties"):
            inner = value if isinstance(value, list) else [value]
        for one in inner:
            yield from _parts(one)


def _tokens(tokenizer: Any, vocabulary: int) -> Any:
    """What each token says, for xgrammar; special tokens say nothing."""
    from xgrammar import TokenizerInfo, VocabType

    end = tokenizer.eos_token_id
    if end is None:
        raise InputError(WHERE, "the model's tokenizer has no end token", "give a model whose tokenizer has one")
    special = set(tokenizer.all_special_ids)
    words = [""] * vocabulary
    for word, place in tokenizer.get_vocab().items():
        if place < vocabulary and place not in special:
            words[place] = word
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.decoder is None:  # such tokens are joined by spaces
        spaced = [word and f" {word}" for word in words]
        return TokenizerInfo(spaced, VocabType.RAW, vocab_size=vocabulary, stop_token_ids=[end])
    try:
        found = TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=[end])
    except Exception as error:
        problem = f"nothing is known about the tokenizer's text ({str(error).splitlines()[0]})"
        raise InputError(WHERE, problem, "give a model with a fast tokenizer") from None
    # xgrammar 0.2 lets control characters into strings of bounded length, where JSON has none.
    says = found.decoded_vocab
    kept: list[str | bytes] = ["" if any(byte < SPACE for byte in says[i]) else word for i, word in enumerate(words)]
    return TokenizerInfo.from_vocab_and_metadata(kept, found.dump_metadata())


def _has_all_bytes(tokens: Any) -> bool:
    # Of the bytes that UTF-8 knows; control characters are always escaped in JSON.
    wanted = {*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)}
    return not wanted.difference(text[0] for text in tokens.decoded_vocab if len(text) == 1)
