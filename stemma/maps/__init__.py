"""Maps: from raw points and shapes to vector tiles that lose nothing.

`features` cleans and reconciles, `point_tiles` and its neighbours encode, `pmtiles` keeps, `check` proves. Nothing here
knows of assets, jobs or pages.
"""
