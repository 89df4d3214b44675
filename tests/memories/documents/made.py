"""Invented documents, and files of the types that a converter reads, made by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

HANDBOOK = """\
# Handbook

The lamp house of Odrin is run by three keepers.

## Doors

The blue door opens on Mondays. Nobody knows
who painted it.

### Codes

- The cellar has the code 4711.
- The attic has the code 1902.

## Bells

The bell was cast from melted spoons.
"""


def words(texts: Sequence[str]) -> list[int]:
    """Counts words: stands in for a tokenizer."""
    return [len(text.split()) for text in texts]


def pdf(
    pages: Sequence[Sequence[str]],
    bookmarks: Sequence[tuple[str, int]] = (),
    *,
    encrypted: bool = False,
) -> bytes:
    """A PDF with these lines on its pages; a bookmark has a title and the number of its page, from 0."""
    objects = ["<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R >>", "", "<< /Type /Font /Subtype /Type1 "
               "/BaseFont /Helvetica >>", ""]  # fmt: skip
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream = f"BT /F 11 Tf 50 750 Td {shown}ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F 3 0 R >> >> >>"
        )
        kids.append(len(objects))
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>"
    first = len(objects) + 1
    for n, (title, page) in enumerate(bookmarks):
        following = f" /Next {first + n + 1} 0 R" if n + 1 < len(bookmarks) else ""
        objects.append(f"<< /Title ({title}) /Parent 4 0 R /Dest [{kids[page]} 0 R /Fit]{following} >>")
    last = f" /First {first} 0 R /Last {len(objects)} 0 R" if bookmarks else ""
    objects[3] = f"<< /Type /Outlines{last} /Count {len(bookmarks)} >>"
    if encrypted:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >>")
    return _written(objects, encrypted=encrypted)


def _written(objects: Sequence[str], *, encrypted: bool) -> bytes:
    data, places = b"%PDF-1.4\n", []
    for n, content in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{n} 0 obj\n{content}\nendobj\n".encode("latin-1")
    lock = f" /Encrypt {len(objects)} 0 R /ID [<00> <00>]" if encrypted else ""
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R{lock} >>\nstartxref\n{len(data)}\n%%EOF\n"
    )
    return data + end.encode()


def docx(paragraphs: Sequence[tuple[str, str]]) -> bytes:
    """A document of Word with these paragraphs: (style, text), the style empty for none."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{name}"><w:name w:val="{name}"/></w:style>'
        for name in dict.fromkeys(style for style, _ in paragraphs if style)
    )
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{escape(text)}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        "ContentType="
        '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType='
        f'"application/xml"/><Override PartName="/word/document.xml" ContentType="{kind}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{kind}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship '
        f'Id="rId1" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
        "word/styles.xml": f'<w:styles xmlns:w="{word}">{styles}</w:styles>',
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()
