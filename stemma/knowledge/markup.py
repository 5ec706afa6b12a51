"""Which lines of a text are markup without words: badges, pictures, HTML tags and comments, link definitions.

They cost the model tokens and answer no question, so chunks leave them out. Meaning beyond that is not judged
here. Every pattern is bounded and atomic, so that the time stays linear on hostile input.
"""

from __future__ import annotations

import re

_TARGET = r"(?:\((?:[^()\n]|\([^()\n]{0,200}\)){0,1000}\)|\[[^\]\n]{0,200}\])"
_IMAGE = rf"!\[[^\]\n]{{0,300}}\]{_TARGET}"
_BADGE = rf"\[\s{{0,4}}{_IMAGE}\s{{0,4}}\]{_TARGET}"
_TAG = r"</?[A-Za-z][^<>\n]{0,2000}>"
_MARKUP_LINE = re.compile(rf"(?>{_BADGE}|{_IMAGE}|{_TAG}|&nbsp;|[^\w\n\\`|$])++")
_LINK_DEFINITION = re.compile(
    r" {0,3}\[[^\]\n^][^\]\n]{0,200}\]:[ \t]*+\S++(?:[ \t]++[\"'(][^\n]{0,300}[\"')])?[ \t]*+"
)
_BROKEN_TAG = re.compile(r"<(?:img|a|p|div|source|picture|br|table|tr|td)\b[^<>]{0,2000}>", re.IGNORECASE)
_BROKEN_IMAGE = re.compile(
    rf"(?>\[\s{{0,4}}{_IMAGE}\s{{0,20}}\]\([^()]{{0,500}}\)|!\[[^\]]{{0,300}}\]\([^()]{{0,500}}\))"
)
_ANY_TAG = re.compile(_TAG)
_WORDS = re.compile(r"\w+")
_STRAY_WORDS = 2
_STRAY_LENGTH = 200
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_RST_IMAGE = re.compile(
    r"\.\. (?:-\*-|contents::|:\w).*"
    r"|\.\. (?:\|[^|\n]{1,100}\| )?(?:image|figure)::.*"
    r"|\.\. _[^:\n]{1,200}: ?\S*+\s*+"
    r"|(?>\|[^|\n]{1,100}\|_{0,2}\s*+)++"
)
_RST_OPTION = re.compile(r"\s+:(?:target|alt|width|height|align|scale|class|name|figwidth|format):.*")
_NOT_NEWLINE = re.compile(r"[^\n]")


def noise_spans(text: str, media_type: str) -> tuple[tuple[int, int], ...]:
    """Spans of whole lines without words outside markup, ascending; a word or two in between goes along.

    Only Markdown (which HTML and DOCX become too) and reStructuredText have such lines; fenced code is never
    noise.
    """
    if media_type in ("text/plain", "application/pdf"):
        return ()
    lines = _restructured_noise(text) if media_type == "text/x-rst" else _markdown_noise(text)
    joined: list[tuple[int, int]] = []
    for start, end in lines:
        if joined and _is_stray(text[joined[-1][1] : start]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _is_stray(between: str) -> bool:
    """Whether between two noise lines stands nothing, or a word or two such as a table cell of badges."""
    if len(between) > _STRAY_LENGTH:
        return not between.strip()
    return len(_WORDS.findall(_ANY_TAG.sub(" ", between))) <= _STRAY_WORDS


def _markdown_noise(text: str) -> list[tuple[int, int]]:
    blanked = _BROKEN_IMAGE.sub(_blank, _BROKEN_TAG.sub(_blank, _without_comments(text)))
    spans, offset, fence = [], 0, ""
    for line, original in zip(blanked.split("\n"), text.split("\n"), strict=True):
        start, offset = offset, offset + len(original) + 1
        marker = _FENCE.match(line)
        if fence:
            fence = "" if marker and line.strip().startswith(fence) else fence
        elif marker:
            fence = marker.group(1)
        elif original.strip() and _is_noise(line):
            spans.append((start, start + len(original)))
    return spans


def _is_noise(line: str) -> bool:
    if not line.strip():
        return True
    if "![" in line or "<" in line:
        return _MARKUP_LINE.fullmatch(line) is not None
    return "]:" in line and _LINK_DEFINITION.fullmatch(line) is not None


def _restructured_noise(text: str) -> list[tuple[int, int]]:
    spans, offset, in_image = [], 0, False
    for line in text.split("\n"):
        start, offset = offset, offset + len(line) + 1
        in_image = bool(_RST_IMAGE.fullmatch(line)) or (in_image and bool(_RST_OPTION.fullmatch(line)))
        if in_image:
            spans.append((start, start + len(line)))
    return spans


def _without_comments(text: str) -> str:
    parts, position = [], 0
    while (start := text.find("<!--", position)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts += [text[position:start], _NOT_NEWLINE.sub(" ", text[start : end + 3])]
        position = end + 3
    return "".join(parts) + text[position:]


def _blank(match: re.Match[str]) -> str:
    tag = match.group()
    return _NOT_NEWLINE.sub(" ", tag) if "\n" in tag else tag
