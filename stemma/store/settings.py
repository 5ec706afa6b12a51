"""Every setting of Stemma, read once: from the environment, `.env` in the checkout, `settings.env` in the home.

A setting belongs here and nowhere else; `docs/SETTINGS.md` documents each and a test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stemma.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]

_OWN = "settings.env"
_BEGINS_WITH = """\
# What this studio began with: every pipeline is on, and nothing that costs money. Edit it, then start the studio again.
# The environment, and a .env file in the checkout, say more than this file. docs/SETTINGS.md lists every setting.
"""


class Settings(BaseSettings):
    """The studio's settings. Sizes are bytes, durations seconds, unless a name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="STEMMA_", env_file=REPOSITORY / ".env", extra="ignore", frozen=True, populate_by_name=True
    )

    home: Path = Field(default=REPOSITORY / ".stemma", description="Folder that holds all state of this studio")

    database_url: str | None = Field(
        default=None, description="libpq URI of the stemma database on another server; unset: embedded Postgres"
    )
    database_owner_url: str | None = Field(
        default=None, description="libpq URI of the role that migrates and builds indexes; default: database_url"
    )
    dagster_database_url: str | None = Field(
        default=None, description="libpq URI of Dagster's storage; default: database `dagster` on the same server"
    )
    postgres_shared_buffers: str = Field(default="256MB", description="shared_buffers of the embedded Postgres")
    database_pool_size: int = Field(
        default=8, ge=1, le=64, description="Connections per process, at most; half as many more look single things up"
    )

    files_url: str | None = Field(
        default=None,
        description="Where built files go: a folder or a URL such as s3://bucket/prefix; default: home/files",
    )

    ledger_heads_url: str | None = Field(
        default=None,
        description="Where the ledger's signed heads go, best a place that this machine cannot rewrite: a folder or a "
        "URL such as s3://bucket/prefix; default: home/ledger-heads",
    )

    environment: Literal["production", "test"] = Field(
        default="production", description="test: a request may name a lesser role in X-ROLE; never where others work"
    )
    api_host: str = Field(default="127.0.0.1", description="Address the API binds; loopback only: it speaks no TLS")
    api_port: int = Field(default=8400, ge=1, le=65535, description="Port of the API")
    api_requests_per_minute: int = Field(
        default=1200, ge=1, description="Requests per minute that one key may send to one capability"
    )
    api_requests_in_flight: int = Field(
        default=16, ge=1, description="Requests of one key to one capability that are served at once"
    )
    api_failures_per_minute: int = Field(
        default=60, ge=1, description="Failed authentications per minute from one address that are told why"
    )
    internal_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="What outside schedulers (cron, n8n) send as x-internal-token to start jobs; unset: they cannot",
    )
    session_idle_seconds: int = Field(default=28_800, ge=300, description="A session that is not used for so long ends")
    session_lifetime_seconds: int = Field(
        default=604_800, ge=300, description="A session ends after so long, however much it is used"
    )
    code_server_port: int = Field(default=8402, ge=1, le=65535, description="Loopback port of the Dagster code server")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged"
    )

    otel_endpoint: str | None = Field(
        default=None,
        description="Base URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://127.0.0.1:4318; "
        "unset: no traces",
    )
    sentry_dsn: SecretStr | None = Field(
        default=None, description="DSN of a Sentry project that is told of unexpected errors, redacted; unset: none is"
    )
    chromium: str | None = Field(
        default=None, description="Chromium's executable; unset: the system's, else the one that Playwright downloaded"
    )

    max_document_bytes: int = Field(
        default=50_000_000, ge=1, description="Larger files are quarantined, larger uploads refused"
    )
    max_expanded_bytes: int = Field(
        default=200_000_000,
        ge=1,
        description="What a compressed document (DOCX) may unpack to, and the text one document may yield",
    )
    chunk_tokens: int = Field(
        default=256,
        ge=32,
        le=512,
        description="Word pieces per chunk at most, title, headings and special tokens included",
    )
    chunk_overlap_tokens: int = Field(
        default=32, ge=0, le=128, description="Word pieces that neighbouring windows of one section share"
    )

    embedding_model: str = Field(
        default="minilm",
        description="`minilm` (bundled all-MiniLM-L6-v2) or the folder of a sentence-transformers model",
    )
    embedding_precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 autocast where the CPU has bf16 instructions, else fp32"
    )
    embedding_batch_size: int = Field(default=32, ge=1, le=1024, description="Chunks per forward pass")
    index_build_memory: str = Field(default="1GB", description="maintenance_work_mem while an HNSW index is built")

    fetch_max_bytes: int = Field(default=50_000_000, ge=1, description="Largest body the outgoing fetcher accepts")
    fetch_timeout: float = Field(default=30.0, gt=0, description="Seconds one outgoing fetch may take in all")

    papers_memory_bytes: int = Field(
        default=2_000_000_000, ge=256_000_000, description="Most memory that one execution of a notebook may use"
    )
    papers_tasks: int = Field(
        default=128, ge=32, description="Most processes with their threads that one execution of a notebook may have"
    )
    papers_disk_bytes: int = Field(
        default=500_000_000, ge=10_000_000, description="Most that one execution of a notebook may leave in its folder"
    )
    papers_scratch_bytes: int = Field(
        default=256_000_000, ge=1_000_000, description="Most that a notebook's own /tmp and /dev/shm may hold each"
    )
    papers_unconfined: bool = Field(
        default=False,
        description="Run notebooks without a sandbox where the machine allows none; each run says that it did",
    )
    papers_max_pages: int = Field(default=300, ge=1, description="Papers of more pages are refused")

    stripe_key: SecretStr | None = Field(
        default=None, description="Restricted key of Stripe, to read what happened to invoices; unset: it is not read"
    )
    stripe_url: str = Field(default="https://api.stripe.com", description="Where Stripe answers")
    github_token: SecretStr | None = Field(
        default=None, description="Token of GitHub, to read issues; unset: only those of public repositories"
    )
    github_url: str = Field(default="https://api.github.com", description="Where GitHub answers")

    llm_providers: str = Field(
        default="openai,local,offline",
        pattern=r"^(openai|local|offline)(,(openai|local|offline))*$",
        description="The providers of models in the order in which they are asked, separated by commas",
    )
    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="OPENAI_API_KEY",
        description="Key of OpenAI; used only where FF_PAID_PROVIDERS is true",
    )
    openai_base_url: str = Field(default="https://api.openai.com/v1", description="Where OpenAI's API answers")
    openai_model: str = Field(default="gpt-4.1-mini", description="The model of `openai` where none is named")
    local_model_url: str | None = Field(
        default="http://127.0.0.1:11434/v1",
        description="Base URL of a server that speaks Chat Completions, such as Ollama (the default), llama.cpp or "
        "vLLM; empty: there is none",
    )
    local_model: str | None = Field(
        default=None, description="The model of `local` where none is named; unset: the first that the server lists"
    )
    local_model_key: SecretStr | None = Field(default=None, description="Key that the server of `local` asks for")
    llm_connect_timeout: float = Field(
        default=5.0, gt=0, description="Seconds that connecting to a provider of models may take"
    )
    llm_first_token_timeout: float = Field(
        default=60.0, gt=0, description="Seconds until the first token of an answer, loading of the model included"
    )
    llm_token_timeout: float = Field(
        default=20.0, gt=0, description="Seconds for which an answer may stand still once it has begun"
    )
    llm_retries: int = Field(
        default=2, ge=0, le=10, description="How often a provider is asked again before the next one is"
    )
    llm_max_prompt_bytes: int = Field(default=1_000_000, ge=1, description="Larger prompts are refused")
    llm_max_answer_bytes: int = Field(default=1_000_000, ge=1, description="Longer answers are cut off with an error")

    llm_prices: Path | None = Field(
        default=None, description="YAML file with what models cost this studio; default: stemma/llm/prices.yaml"
    )

    notify_timeout: float = Field(
        default=15.0, ge=0.1, le=25.0, description="Seconds one attempt to deliver a notification may take in all"
    )
    notify_deadline_hours: float = Field(
        default=72.0, gt=0, description="Hours for which the delivery of a notification is attempted"
    )

    vault_key: SecretStr | None = Field(
        default=None,
        description="What seals the secrets of agents: 32 bytes in URL-safe base64, the newest of several first, "
        "separated by commas; unset: a file in STEMMA_HOME/keys",
    )

    ff_jobs_worker: bool = Field(default=False, validation_alias="FF_JOBS_WORKER", description="Run queued jobs")
    ff_cost_telemetry: bool = Field(
        default=False, validation_alias="FF_COST_TELEMETRY", description="Aggregate provider costs"
    )
    ff_evals: bool = Field(default=False, validation_alias="FF_EVALS", description="Run evaluation suites")
    ff_map_pipeline: bool = Field(default=False, validation_alias="FF_MAP_PIPELINE", description="Build map layers")
    ff_social_pipeline: bool = Field(
        default=False, validation_alias="FF_SOCIAL_PIPELINE", description="Render and schedule posts"
    )
    ff_paid_providers: bool = Field(
        default=False, validation_alias="FF_PAID_PROVIDERS", description="Allow calls that cost money"
    )
    use_mocks: bool = Field(
        default=False,
        validation_alias="USE_MOCKS",
        description="Use the offline provider where credentials are missing",
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @property
    def inbox(self) -> Path:
        """Folder whose files become searchable by themselves."""
        return self.home / "inbox"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder."""
        return self.home / "dagster"

    @property
    def api_url(self) -> str:
        """Where the API and its pages answer, for this machine alone."""
        host = f"[{self.api_host}]" if ":" in self.api_host else self.api_host
        return f"http://{host}:{self.api_port}"


def begin(settings: Settings) -> None:
    """Switch the pipelines on in a home that has nothing in it yet, by a file there that `load_settings` reads."""
    settings.home.mkdir(parents=True, exist_ok=True)
    if any(settings.home.iterdir()):
        return
    flags = [name for name in Settings.model_fields if name.startswith("ff_") and name != "ff_paid_providers"]
    lines = [f"{name.upper()}=true\n" for name in flags]
    (settings.home / _OWN).write_text(_BEGINS_WITH + "".join(lines))


def load_settings() -> Settings:
    """Read the settings; raises InvalidInput that names the variable when a value is unusable."""
    try:
        settings = Settings()
        own = settings.home / _OWN
        return Settings(_env_file=(own, REPOSITORY / ".env")) if own.is_file() else settings  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        variable = name if name.isupper() else f"STEMMA_{name.upper()}"
        raise InvalidInput(
            "setting_invalid",
            f"{first['msg']}.",
            field=variable,
            hint="docs/SETTINGS.md lists what each setting accepts.",
        ) from error
