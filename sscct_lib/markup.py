"""Tables of generated pages."""

import html

import pandas as pd


def html_table(frame: pd.DataFrame) -> str:
    """Write a table as HTML with its cells escaped; Markdown pipes would break on the text of checks.

    Parameters
    ----------
    frame
        The table; its index is not shown.

    Returns
    -------
    str
        One block of HTML for a page in MyST Markdown; `None.` for a table without rows.
    """
    if frame.empty:
        return "None."
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f'<table class="table">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
