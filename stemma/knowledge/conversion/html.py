"""HTML to Markdown by markdownify, without what is not prose (scripts, styles, navigation, images)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stemma.knowledge.conversion.markdown import read_markdown
from stemma.knowledge.conversion.titles import shortened
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.models import Heading

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

VERSION = "html-1"

_MAX_DEPTH = 256
_TABLE = ("table", "tbody", "thead")
_IMPLIED_ENDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "p": (("p",), ("div", "section", "article", "td", "th", "li", "blockquote")),
    "li": (("li",), ("ul", "ol")),
    "dt": (("dt", "dd"), ("dl",)),
    "dd": (("dt", "dd"), ("dl",)),
    "tr": (("tr",), _TABLE),
    "td": (("td", "th"), ("tr", *_TABLE)),
    "th": (("td", "th"), ("tr", *_TABLE)),
    "option": (("option",), ("select",)),
}
_NOT_PROSE = ("script", "style", "nav", "noscript", "template", "iframe", "object", "svg", "head", "title")


def read_html(source: str, *, fallback_title: str) -> tuple[str, str, tuple[Heading, ...]]:
    """Turn HTML into (Markdown, title, headings); `<title>` wins over the first heading.

    Nothing that the page refers to is fetched. Raises Unreadable `html_damaged` for nesting that no page has.
    """
    from markdownify import MarkdownConverter

    try:
        page = _parsed(source)
        page_title = shortened(page.title.get_text()) if page.title else ""
        for element in page.find_all(_NOT_PROSE):
            element.decompose()
        converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["img"], escape_misc=False)
        markdown = converter.convert_soup(page)
    except RecursionError as error:
        raise _too_deep() from error
    text, title, headings = read_markdown(_tidied(markdown), fallback_title=fallback_title)
    return text, page_title or title, headings


def _too_deep() -> Unreadable:
    return Unreadable("html_damaged", "The HTML is nested too deeply to be a page.")


def _parsed(source: str) -> BeautifulSoup:
    """Parse with the end tags that HTML lets authors leave out; html.parser alone sees nesting there."""
    from bs4 import BeautifulSoup

    class Page(BeautifulSoup):
        def handle_starttag(self, name: str, *rest: Any, **named: Any) -> Tag | None:
            if len(self.tagStack) > _MAX_DEPTH:
                raise _too_deep()
            ended, within = _IMPLIED_ENDS.get(name, ((), ()))
            for open_tag in reversed(self.tagStack if ended else ()):
                if open_tag.name in within:
                    break
                if open_tag.name in ended:
                    self.handle_endtag(open_tag.name)
                    break
            return super().handle_starttag(name, *rest, **named)

    return Page(source, "html.parser")


def _tidied(markdown: str) -> str:
    return markdown.replace("\u00a0", " ").strip() + "\n"
