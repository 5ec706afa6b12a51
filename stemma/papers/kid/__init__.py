"""A paper told to children: a storyboard of a few pages, how easy it is to read, and its pictures."""
