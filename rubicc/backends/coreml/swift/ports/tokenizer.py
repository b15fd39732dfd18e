"""Port of ``Tokenizer.swift``: byte-pair encoding as Hugging Face ``tokenizers`` does it.

Source of the algorithm: the behaviour of the ``tokenizers`` library (added tokens, then normalizer,
pre-tokenizer, merges by rank, template), against which the tests hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rubicc.backends.coreml.swift.ports.heap import Heap
from rubicc.backends.coreml.swift.ports.refusals import text_refused, tokenizer_refused
from rubicc.backends.coreml.swift.ports.tokenizer_file import (
    AddedToken,
    BytePairs,
    PostProcessor,
    TokenizerFile,
    parse,
)
from rubicc.text import printable

PAD_NAMES = ("[PAD]", "<pad>")
# The code points of Unicode's White_Space property.
SPACES = frozenset(
    (
        *(0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004),
        *(0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
    )
)


@dataclass
class Encoding:
    """Token ids, and the scalar of the text at which each begins (-1: added by the template)."""

    ids: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Window:
    """Tokens of one prediction, padded; ``mask`` is 1 for tokens and 0 for padding."""

    ids: list[int]
    mask: list[float]
    starts: list[int]


@dataclass(frozen=True)
class Match:
    """``[start, stop)`` of a text, with the id of the added token that stands there."""

    start: int
    stop: int
    id: int | None


@dataclass(frozen=True)
class Added:
    """An added token's letters and id."""

    letters: list[int]
    id: int


class Tokenizer:
    """A tokenizer.json's tables; what cannot be done exactly is refused here, with the reason."""

    def __init__(self, data: bytes | TokenizerFile, pad: int | None = None) -> None:
        file = parse(data) if isinstance(data, bytes) else data
        model = file.model
        check(model)
        self.letters: dict[int, int] = {}
        for token, token_id in model.vocab.items():
            letters = scalars(token)
            if len(letters) == 1:
                self.letters[letters[0]] = token_id
        self.ranks: dict[int, int] = {}
        self.made: list[int] = []
        for left, right in model.merges:
            if left not in model.vocab or right not in model.vocab or left + right not in model.vocab:
                raise tokenizer_refused("a merge is of tokens outside the vocabulary")
            self.ranks[key(model.vocab[left], model.vocab[right])] = len(self.made)
            self.made.append(model.vocab[left + right])
        self.unknown: int | None = None
        if model.unknown is not None:
            self.unknown = model.vocab.get(model.unknown)
            if self.unknown is None:
                raise tokenizer_refused(f"{printable(model.unknown, 40)} is outside the vocabulary")
        self.fuse_unknown = model.fuse_unknown or False
        for name in file.normalizer:
            if name != "Lowercase":
                raise tokenizer_refused(f"normalizer {printable(name, 40)}")
        self.lowercase = bool(file.normalizer)
        for name in file.pre_tokenizer:
            if name != "Whitespace" and name != "WhitespaceSplit":
                raise tokenizer_refused(f"pre-tokenizer {printable(name, 40)}")
        self.splits_spaces = bool(file.pre_tokenizer)
        self.splits_words = "Whitespace" in file.pre_tokenizer
        self.raw_tokens = table(file.added_tokens, False, self.lowercase)
        self.normal_tokens = table(file.added_tokens, True, self.lowercase)
        self.before, self.after = frame(file.post_processor)
        found = padding(file)
        self.pad = pad if found is None else found

    def encode(self, text: str) -> Encoding:
        """Ids of a whole text in the model's template, however long it is."""
        return self.framed(self.tokens(text))

    def framed(self, body: Encoding) -> Encoding:
        """Tokens in the model's template."""
        ids = self.before + body.ids + self.after
        return Encoding(ids, [-1] * len(self.before) + body.starts + [-1] * len(self.after))

    def windows(self, text: str, length: int, overlap: int = 0) -> list[Window]:
        """Windows of ``length`` tokens with the template; neighbours share ``overlap`` of the text's."""
        room = length - len(self.before) - len(self.after)
        if room < 1 or overlap < 0 or overlap >= room:
            raise text_refused(f"windows of {length} tokens cannot overlap by {overlap}")
        body = self.tokens(text)
        windows: list[Window] = []
        start = 0
        while True:
            stop = min(start + room, len(body.ids))
            windows.append(self.window(body, start, stop, length))
            if stop == len(body.ids):
                return windows
            start += room - overlap

    def window(self, body: Encoding, start: int, stop: int, length: int) -> Window:
        """Tokens ``[start, stop)`` of a text in the template, padded to ``length``."""
        taken = self.framed(Encoding(body.ids[start:stop], body.starts[start:stop]))
        ids = taken.ids
        starts = taken.starts
        mask = [1.0] * len(ids)
        while len(ids) < length:
            if self.pad is None:
                raise text_refused("the tokenizer has no padding token")
            ids.append(self.pad)
            starts.append(-1)
            mask.append(0.0)
        return Window(ids, mask, starts)

    def tokens(self, text: str) -> Encoding:
        """Ids of a text without the template."""
        letters = scalars(text)
        out = Encoding()
        for raw in self.find(letters, 0, len(letters), self.raw_tokens):
            if raw.id is not None:
                out.ids.append(raw.id)
                out.starts.append(raw.start)
                continue
            normal: list[int] = []
            origins: list[int] = []
            for place in range(raw.start, raw.stop):
                mapped = lowered(letters[place]) if self.lowercase else [letters[place]]
                normal += mapped
                origins += [place for _ in mapped]
            for piece in self.find(normal, 0, len(normal), self.normal_tokens):
                if piece.id is not None:
                    out.ids.append(piece.id)
                    out.starts.append(origins[piece.start])
                    continue
                for word in self.words(normal, piece.start, piece.stop):
                    merged = self.merge(self.symbols(normal, origins, word.start, word.stop))
                    out.ids += merged.ids
                    out.starts += merged.starts
        return out

    def find(self, text: list[int], start: int, stop: int, tokens: dict[int, list[Added]]) -> list[Match]:
        """Cut a text at added tokens: at each place the longest of them, from the left."""
        matches: list[Match] = []
        begun = start
        place = start
        while place < stop:
            token = None
            for added in tokens.get(text[place], []):
                end = place + len(added.letters)
                if end <= stop and text[place:end] == added.letters:
                    token = added
                    break
            if token is None:
                place += 1
                continue
            if begun < place:
                matches.append(Match(begun, place, None))
            place += len(token.letters)
            matches.append(Match(place - len(token.letters), place, token.id))
            begun = place
        if begun < stop:
            matches.append(Match(begun, stop, None))
        return matches

    def words(self, text: list[int], start: int, stop: int) -> list[Match]:
        """Cut a text at white space, and between word characters and others where the file says so."""
        if not self.splits_spaces:
            return [Match(start, stop, None)]
        words: list[Match] = []
        begun = start
        last = 0
        for place in range(start, stop):
            kind = self.kind(text[place])
            if kind != last:
                if last != 0:
                    words.append(Match(begun, place, None))
                begun = place
                last = kind
        if last != 0:
            words.append(Match(begun, stop, None))
        return words

    def kind(self, letter: int) -> int:
        """0 white space, 1 word character (or anything, where words are not told apart), 2 other."""
        if letter in SPACES:
            return 0
        if not self.splits_words:
            return 1
        if letter > 127:
            raise text_refused("this tokenizer is exact for ASCII text only")
        digit = letter >= 48 and letter <= 57
        upper = letter >= 65 and letter <= 90
        lower = letter >= 97 and letter <= 122
        return 1 if digit or upper or lower or letter == 95 else 2

    def symbols(self, text: list[int], origins: list[int], start: int, stop: int) -> Encoding:
        """Letters of a word as tokens; those outside the vocabulary are unknown, or left out."""
        word = Encoding()
        opened = False
        for place in range(start, stop):
            token_id = self.letters.get(text[place])
            if token_id is not None:
                word.ids.append(token_id)
                word.starts.append(origins[place])
                opened = False
            elif self.unknown is not None:
                if opened and self.fuse_unknown:
                    continue
                word.ids.append(self.unknown)
                word.starts.append(origins[place])
                opened = True
        return word

    def merge(self, word: Encoding) -> Encoding:
        """Merge neighbours in the order of their rank: a heap over a linked list, O(n log n)."""
        ids = list(word.ids)
        count = len(ids)
        following: list[int] = []
        previous: list[int] = []
        heap = Heap()
        for place in range(count):
            following.append(place + 1)
            previous.append(place - 1)
            if place + 1 < count:
                rank = self.ranks.get(key(ids[place], ids[place + 1]))
                if rank is not None:
                    heap.push(rank << 32 | place)
        while (top := heap.pop()) is not None:
            rank = top >> 32
            place = top & 0xFFFF_FFFF
            if ids[place] < 0 or following[place] == count:
                continue
            right = following[place]
            found = self.ranks.get(key(ids[place], ids[right]))
            if found is None:
                continue
            if self.made[found] != self.made[rank]:
                continue
            ids[place] = self.made[rank]
            ids[right] = -1
            following[place] = following[right]
            if following[place] < count:
                previous[following[place]] = place
                rank = self.ranks.get(key(ids[place], ids[following[place]]))
                if rank is not None:
                    heap.push(rank << 32 | place)
            if previous[place] >= 0:
                left = previous[place]
                rank = self.ranks.get(key(ids[left], ids[place]))
                if rank is not None:
                    heap.push(rank << 32 | left)
        out = Encoding()
        for place in range(count):
            if ids[place] >= 0:
                out.ids.append(ids[place])
                out.starts.append(word.starts[place])
        return out


def check(model: BytePairs) -> None:
    """Refuse kinds of byte-pair models that Swift does not do."""
    if model.type is not None and model.type != "BPE":
        raise tokenizer_refused(f"model {printable(model.type, 40)}")
    if model.dropout is not None and model.dropout != 0:
        raise tokenizer_refused("dropout is random")
    if model.prefix is not None and model.prefix:
        raise tokenizer_refused("prefixes in words")
    if model.suffix is not None and model.suffix:
        raise tokenizer_refused("suffixes of words")
    if model.byte_fallback or False:
        raise tokenizer_refused("byte fallback")
    if model.ignore_merges or False:
        raise tokenizer_refused("ignore_merges")


def table(added: list[AddedToken], normalized: bool, lowercase: bool) -> dict[int, list[Added]]:
    """Added tokens by their first letter, longest first."""
    tokens: dict[int, list[Added]] = {}
    for token in added:
        if (token.single_word or False) or (token.lstrip or False) or (token.rstrip or False):
            raise tokenizer_refused(f"added token {printable(token.content, 40)} takes spaces or whole words")
        if (token.normalized or False) != normalized or not token.content:
            continue
        letters = scalars(token.content)
        if normalized and lowercase:
            letters = [small for letter in letters for small in lowered(letter)]
        same = tokens.get(letters[0], [])
        shorter = (at for at, other in enumerate(same) if len(other.letters) < len(letters))
        place = next(shorter, len(same))
        same.insert(place, Added(letters, token.id))
        tokens[letters[0]] = same
    return tokens


def frame(processor: PostProcessor | None) -> tuple[list[int], list[int]]:
    """Ids that the template puts before and after a single sequence."""
    if processor is None:
        return [], []
    if processor.type == "BertProcessing" or processor.type == "RobertaProcessing":
        if processor.cls is None or processor.sep is None:
            raise tokenizer_refused("post-processor without tokens")
        return [processor.cls], [processor.sep]
    if processor.type != "TemplateProcessing":
        raise tokenizer_refused(f"post-processor {printable(processor.type, 40)}")
    parts: list[list[int]] = [[]]
    for kind, name in processor.single:
        if kind == "sequence":
            parts.append([])
            continue
        if name not in processor.special_tokens:
            raise tokenizer_refused("the template names an unknown token")
        parts[len(parts) - 1] += processor.special_tokens[name]
    if len(parts) != 2:
        raise tokenizer_refused("the template is not of one sequence")
    return parts[0], parts[1]


def padding(file: TokenizerFile) -> int | None:
    """The padding token: what the file's padding says, else one of the usual names."""
    if file.padding is not None:
        return file.padding
    for name in PAD_NAMES:
        for token in file.added_tokens:
            if token.content == name:
                return token.id
        if name in file.model.vocab:
            return file.model.vocab[name]
    return None


def scalars(text: str) -> list[int]:
    """Unicode scalars of a text."""
    return [ord(letter) for letter in text]


def key(left: int, right: int) -> int:
    """One integer for a pair of ids."""
    return left << 32 | right


def lowered(letter: int) -> list[int]:
    """Unicode's full lower-case mapping of one scalar."""
    return scalars(chr(letter).lower())
