"""The demonstration of the governance loop: a year of sample events, decided as if it passed now, a month at a time.

`leave` makes up requests for leave, `happenings` puts them beside the sample orders in their order, `living` records,
decides and observes what is missing of a month, `summary` says what came of it, beside what is known of the samples.
Which assets are made anew after a month, and how it is shown, belongs to the command line.
"""
