"""axe, which finds what a page lacks for people who cannot see or use it well."""

from playwright.sync_api import Page

from tests.support.node import npm_packages

AXE = "axe-core@4.14.1"


def audit(page: Page, *rules: str) -> list[str]:
    """Return what axe calls serious or worse, by these rules or all.

    A page with a policy of its own needs a context with `bypass_csp`.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.add_script_tag(path=npm_packages(AXE) / "node_modules" / "axe-core" / "axe.min.js")
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
