"""`make basemap`: take the pinned file from npm, build the archive of it, and hold it to the pinned hash."""

from __future__ import annotations

import hashlib
import json
import sys

from api.console import basemap, vendor
from stemma.errors import CheckFailed, StemmaError
from stemma.maps.basemap import build_basemap
from stemma.maps.building import Input, Provenance


def main() -> None:
    """Build it; raises Unavailable without npm, CheckFailed where the source or the archive is another one."""
    pinned = basemap.manifest()
    content = vendor.packed(pinned.package, pinned.version, [pinned.source])[pinned.source]
    if hashlib.sha256(content).hexdigest() != pinned.source_sha256:
        raise CheckFailed("basemap_differs", f"{pinned.source} of {pinned.package} has another SHA-256 than pinned.")
    provenance = Provenance(
        "World",
        inputs=(Input(pinned.source, pinned.source_sha256),),
        licence=pinned.licence,
        attribution="Natural Earth",
        description="Land, borders and names of countries at 1:50 million",
    )
    build_basemap(basemap.ARCHIVE, json.loads(content), provenance)
    basemap.check()


if __name__ == "__main__":
    try:
        main()
    except StemmaError as error:
        sys.exit(str(error))
