"""The report of a sweep as one HTML file that needs no other: `write_page`.

`build.py` gathers what is shown, `page.html.jinja` says where it stands, `page.css` how it looks and `page.js` sorts,
filters and points out curves. Charts are matplotlib's (`report/figures.py`).
"""
