"""The one style of all pictures: colours, axes, lines, heat maps, shards.

Pictures of a run directory (PNG), of reports (SVG in a page) and of plans are drawn with these
functions, so that one thing looks the same everywhere.
"""
