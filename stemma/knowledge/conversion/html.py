"""HTML to Markdown by markdownify, without what is not prose (scripts, styles, navigation, images)."""

from __future__ import annotations

from stemma.knowledge.conversion.markdown import read_markdown
from stemma.knowledge.conversion.titles import shortened
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.models import Heading

VERSION = "html-1"

_NOT_PROSE = ("script", "style", "nav", "noscript", "template", "iframe", "object", "svg", "head")


def read_html(source: str, *, fallback_title: str) -> tuple[str, str, tuple[Heading, ...]]:
    """Turn HTML into (Markdown, title, headings); `<title>` wins over the first heading.

    Nothing that the page refers to is fetched. Raises Unreadable `html_damaged` for nesting that no page has.
    """
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    try:
        page = BeautifulSoup(source, "html.parser")
        page_title = shortened(page.title.get_text()) if page.title else ""
        for element in page.find_all(_NOT_PROSE):
            element.decompose()
        converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["img"], escape_misc=False)
        markdown = converter.convert_soup(page)
    except RecursionError as error:
        raise Unreadable("html_damaged", "The HTML is nested too deeply to be a page.") from error
    text, title, headings = read_markdown(_tidied(markdown), fallback_title=fallback_title)
    return text, page_title or title, headings


def _tidied(markdown: str) -> str:
    return markdown.replace("\u00a0", " ").strip() + "\n"
