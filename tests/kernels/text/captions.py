"""Makes captions as people write them, and strings that tokenizers stumble over. Both follow from a seed alone."""

import random
import unicodedata
from collections.abc import Iterator


def words(text: str) -> list[str]:
    """Split at spaces."""
    return text.split()


ONSETS = words("b c ch d f g gr h j k l m n p pl qu r s sh st str t th tr v w y z")
VOWELS = words("a e i o u ai ea ee ie oa oo ou")
CODAS = ["", "", *words("b ck d g l ll m n nd ng nt p r rt s ss st t x")]
COMMON = words(
    "a the of on in with and to at by from near under over two three red blue green small large old young man woman "
    "dog cat horse street table plate pizza train bench tree sky water sitting standing holding riding eating looking"
)
CONTRACTIONS = words("don't it's we're they've I'm she'll he'd DON'T IT'S o'clock rock'n'roll 'tis dogs' 's 'll")
FOREIGN = words(
    "café naïve Ångström Zürich señor FAÇADE œuvre Straße ΣΊΣΥΦΟΣ Ὀδυσσεύς Москва ЁЛКА İstanbul ısı şehir 東京 "
    "猫が好き 서울 กรุงเทพ हिन्दी عربي עברית Việt ﬁne Ǆ ⅷ ½ x² ٣٤ १२ １２ 🐱 👩\u200d🚀 🇫🇷 ❤️ ™"
    " € … – — “quoted” ‘single’ «là»"
)
PUNCTUATION = words(', . ! ? ; : - ... !!! ?! ) " & / # % @ * _ ~')
SPACES = [" ", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\r\n"]


def captions(count: int, seed: int) -> list[str]:
    """Return `count` captions of 1 to 14 words, now and then of many more than a row holds."""
    draw = random.Random(seed)
    return ["".join(_caption(draw)) for _ in range(count)]


def hard_strings() -> list[str]:
    """Return strings that tokenizers differ on: spaces, digits, marks, forms, cases, planes, near-special text."""
    codes = [
        *(0, 1, 7, 9, 10, 11, 12, 13, 27, 28, 31, 32, 33, 39, 45, 92, 95, 96, 127, 128, 133, 160, 173, 178, 188, 0xDF),
        *(0x130, 0x131, 0x149, 0x1C5, 0x2BC, 0x300, 0x301, 0x345, 0x3A3, 0x3C2, 0x660, 0x6F5, 0x904, 0x93E, 0xE31),
        *(0x1100, 0x1161, 0x1680, 0x180E, 0x1E9E, 0x1FBC, 0x2000, 0x200B, 0x200D, 0x2019, 0x2028, 0x2029, 0x202F),
        *(0x205F, 0x2060, 0x2126, 0x212B, 0x2160, 0x2460, 0x24B6, 0x3000, 0x3007, 0x4E00, 0xAC00, 0xE000, 0xF900),
        *(0xFB01, 0xFE0F, 0xFEFF, 0xFF11, 0xFF21, 0xFFFD, 0xFFFF, 0x10400, 0x1D7D8, 0x1F1E6, 0x1F3FB, 0x1F600),
        *(0x2F800, 0xE0001, 0x10FFFF),
    ]
    around = [
        each
        for c in map(chr, codes)
        for each in (f"a{c}b", f"{c}{c}1{c}2", f"A {c} 'S{c}", unicodedata.normalize("NFD", c))
    ]
    return [
        *around,
        *("", " ", "   ", "\n", "a", "A", "7", "'", "''", "'s", "s'", "'S", "’s", "12345", "3.14", "1,000", "1a2b"),
        *("x'll", "they'll've", "'t't", "'re've", "we'RE", "I'M", "''s", "'s's", "-'s-", "a's", "é's", "1's", "!'s"),
        *("<|ENDOFTEXT|>", "a<|EndOfText|>b", "!!<|STARTOFTEXT|>!!", "<|endoftext", "endoftext|>"),
        *("!'!s", "<|end|>", "<start_of_text>"),
        *("&amp;", "&lt;b&gt;", "http://a.b/c?d=e&f=1", "C:\\d\\e", "#version: 0.2"),
        *("</w>", "a</w>", "</w></w>", "Ġ", "Ã", "âĢĻ"),
        *(unicodedata.normalize(form, text) for form in ("NFD", "NFKD") for text in FOREIGN),
        *(text.upper() for text in FOREIGN),
        *("a" * 500, "ab " * 200, "1" * 100, "!" * 300, "é" * 90, "猫" * 60, "the " * 75, "the " * 76, "the " * 77),
    ]  # fmt: skip


def _caption(draw: random.Random) -> Iterator[str]:
    for _ in range(draw.randint(1, 14) if draw.random() < 0.99 else draw.randint(60, 120)):
        word = _word(draw)
        style = draw.random()
        yield word.upper() if style < 0.03 else word.capitalize() if style < 0.15 else word
        if draw.random() < 0.15:
            yield draw.choice(PUNCTUATION)
        yield draw.choice(SPACES)


def _word(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.45:
        return draw.choice(COMMON)
    if kind < 0.75:
        return "".join(draw.choice(part) for _ in range(draw.randint(1, 4)) for part in (ONSETS, VOWELS, CODAS))
    if kind < 0.85:
        number = draw.randint(0, 10 ** draw.randint(1, 6))
        return draw.choice([f"{number}", f"{number:,}", f"{number / 10}", f"{number}cm", f"no.{number}", f"{number}th"])
    if kind < 0.92:
        return draw.choice(CONTRACTIONS)
    return draw.choice(FOREIGN)
