"""PDFs to read, and such as mean harm: small on disk, endless to whoever takes them apart."""

from __future__ import annotations

import zlib

FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
ONE_PAGE = b"<</Type/Pages/Count 1/Kids[4 0 R]>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents 5 0 R>>"
WORDS = b"BT /F1 12 Tf 72 720 Td (words) Tj ET"


def pdf(*objects: bytes, trailer: bytes = b"") -> bytes:
    """A file of these objects, numbered from 1; the first is the catalog."""
    out, offsets = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size + table
    return out + b"trailer\n<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, len(out) - len(table) - 26)


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d%b>>\nstream\n%b\nendstream" % (len(content), entries, content)


def page(content: bytes, entries: bytes = b"") -> bytes:
    """One page with this content stream."""
    return pdf(CATALOG, ONE_PAGE, FONT, PAGE, stream(content, entries))


def text(*pages: str) -> bytes:
    """Each page's lines, in Helvetica."""
    objects, kids = [CATALOG, b"", FONT], list[int]()
    for one in pages:
        lines = b" T* ".join(b"(%b) Tj" % line.encode("ascii") for line in one.split("\n"))
        objects.append(stream(b"BT /F1 12 Tf 14 TL 72 720 Td " + lines + b" ET"))
        objects.append(PAGE.replace(b"5 0 R", b"%d 0 R" % len(objects)))
        kids.append(len(objects))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%b]>>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    return pdf(*objects)


def encrypted() -> bytes:
    entries = b"<</Filter/Standard/V 1/R 2/O<%b>/U<%b>/P -4>>" % (b"41" * 32, b"42" * 32)
    return pdf(CATALOG, ONE_PAGE, FONT, PAGE, stream(WORDS), entries, trailer=b"/Encrypt 6 0 R/ID[<00><00>]")


def scanned() -> bytes:
    """A page with a picture on it and no text."""
    picture = stream(b"\0", b"/Type/XObject/Subtype/Image/Width 1/Height 1/ColorSpace/DeviceGray/BitsPerComponent 8")
    holder = PAGE.replace(b"/Font<</F1 3 0 R>>", b"/XObject<</A 6 0 R>>")
    return pdf(CATALOG, ONE_PAGE, FONT, holder, stream(b"612 0 0 792 0 0 cm /A Do"), picture)


# --- those that mean harm


def inflated(size_bytes: int, *, twice: bool = False) -> bytes:
    """A content stream that becomes this much: of text, or of spaces compressed twice."""
    if twice:
        return page(zlib.compress(zlib.compress(b" " * size_bytes, 9), 9), b"/Filter[/FlateDecode/FlateDecode]")
    packer, block = zlib.compressobj(9), b"(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) Tj " * 1000
    parts = [packer.compress(b"BT /F1 1 Tf "), *(packer.compress(block) for _ in range(size_bytes // len(block)))]
    return page(b"".join(parts) + packer.flush(), b"/Filter/FlateDecode")


def forms(depth: int, width: int) -> bytes:
    """Forms that draw the next one `width` times, `depth` deep."""
    objects = [CATALOG, ONE_PAGE, FONT, PAGE.replace(b"/Font<</F1 3 0 R>>", b"/XObject<</A 6 0 R>>"), stream(b"/A Do")]
    for number in range(depth):
        resources = b"/Resources<</Font<</F1 3 0 R>>/XObject<</A %d 0 R>>>>" % (7 + number)
        content = b"/A Do " * width if number < depth - 1 else WORDS
        objects.append(stream(content, b"/Type/XObject/Subtype/Form/BBox[0 0 612 792]" + resources))
    return pdf(*objects)


def pages(count: int) -> bytes:
    """So many pages, all the same one."""
    return pdf(CATALOG, b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, b"4 0 R " * count), FONT, PAGE, stream(WORDS))


def tree(depth: int, width: int) -> bytes:
    """A page tree each of whose nodes is `width` times the next one: width ** depth pages."""
    nodes = [
        b"<</Type/Pages/Count %d/Kids[%b]>>" % (min(width ** (depth - number), 2**31 - 1), b"%d 0 R " % (number + 3) * width)
        for number in range(depth)
    ]
    return pdf(CATALOG, *nodes, b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]>>")


def nested(depth: int) -> bytes:
    """Lists in lists in the catalog, and no words."""
    return pdf(CATALOG.replace(b">>", b"/X %b%b>>" % (b"[" * depth, b"]" * depth)), ONE_PAGE, FONT, PAGE, stream(b""))
