"""The settings panel: a web app in a process of its own, which works while the archive does not.

`app` puts it together, `door` decides who may come in, `serving` runs it. A page is one module in `pages`, with its
routes, one script in `static`, and its texts in both tables; `pages.PAGES` lists them.
"""
