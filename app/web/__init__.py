"""Files for browsers: pages, their third-party files and the build hook that fetches them.

    pages.py        a page from files below static, and which sources it may load
    dashboard.py    the dashboard's HTML and files; bundle.py makes its modules one script
    guide.py        the Markdown pages of app/docs, with how to add one
    sign_in.py      the page for a browser without a session
    build_hook.py   fetches third-party files into static/vendor when the package is built

The dashboard itself is in static/dashboard: `main.js` starts it, a page is a module in `pages/`.
How to add a page:

1. write the module in `pages/`, and give it its address in `Page` of `main.js` (with a link, in
   `PAGES`), in `OURS` of `route.js` and in `PATHS` of `dashboard.py`;
2. add its queries to `operations.js`, run `python -m tests.support.graphql_types`;
3. add its texts to `chinese.js`.
"""
