"""What a call costs: the studio's own prices first, then the published ones of `genai-prices`, else it is not known."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stemma.errors import InvalidInput
from stemma.llm.model import Usage
from stemma.store.files import read_local
from stemma.store.settings import REPOSITORY, Settings

OFFLINE: Final = "offline"
"""The provider that computes here and costs nothing, whatever it is asked."""
EVERY_MODEL: Final = "*"
_FILE: Final = REPOSITORY / "stemma" / "llm" / "prices.yaml"
_MILLION: Final = Decimal(1_000_000)
_SMALLEST: Final = Decimal(1).scaleb(-10)
_Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Price(BaseModel):
    """US dollars for a million tokens; `cached` is for those of the input that the provider had cached."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: _Dollars
    output: _Dollars
    cached: _Dollars | None = None

    def of(self, usage: Usage) -> Decimal:
        """What a call costs."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.tokens_in - usage.tokens_cached
        return (fresh * self.input + usage.tokens_cached * cached + usage.tokens_out * self.output) / _MILLION


_Own = Mapping[str, Mapping[str, Price]]
_OWN: Final = TypeAdapter(dict[str, dict[str, Price]])
_FREE: Final = Price(input=Decimal(0), output=Decimal(0))


class Prices:
    """The prices in force. Thread-safe."""

    def __init__(self, own: _Own) -> None:
        """`own` are by provider and model, `*` being every other model of a provider."""
        self._own = own

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the studio's own; raises NotFound, and InvalidInput that names what is wrong with the file."""
        return cls(_read(settings.llm_prices or _FILE))

    def cost(self, provider: str, model: str, usage: Usage) -> Decimal | None:
        """What a call costs in US dollars, to ten places; None where its price is not known."""
        own = self._own.get(provider, {})
        price = _FREE if provider == OFFLINE else own.get(model, own.get(EVERY_MODEL))
        found = price.of(usage) if price is not None else _published(provider, model, usage)
        return None if found is None else found.quantize(_SMALLEST)


@cache
def load_published() -> Any:
    """The published prices as of the package; nothing is asked of the network. The first call takes some 0.2 s."""
    import genai_prices

    return genai_prices


def _published(provider: str, model: str, usage: Usage) -> Decimal | None:
    prices = load_published()
    used = prices.Usage(
        input_tokens=usage.tokens_in, cache_read_tokens=usage.tokens_cached, output_tokens=usage.tokens_out
    )
    try:
        total = prices.calc_price(used, model, provider_id=provider).total_price
    except LookupError:
        return None
    assert isinstance(total, Decimal)
    return total


def _read(path: Path) -> dict[str, dict[str, Price]]:
    try:
        return _OWN.validate_python(yaml.safe_load(read_local(path)) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"{path.name} is not YAML: {' '.join(str(error).split())}."
        raise InvalidInput("prices_invalid", what, field="STEMMA_LLM_PRICES") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = " / ".join(map(str, first["loc"]))
        what = f"{path.name}: {where or 'the file'}: {first['msg']}."
        hint = "Name providers, in them models, and for each `input` and `output` in US dollars for a million tokens."
        raise InvalidInput("prices_invalid", what, field="STEMMA_LLM_PRICES", hint=hint) from error
