from sscct_lib.packages import licence, needed_packages, packages_table
from sscct_lib.privacy import find
from sscct_lib.reference_pages import packages_page


def test_every_package_is_listed_once_with_its_licence():
    packages = needed_packages()
    names = [one.metadata["Name"].lower() for one in packages]
    assert {"torch", "numpy", "snakemake", "pydicom", "jinja2"} <= set(names)  # jinja2: needed by what we need
    assert len(names) == len(set(names)) > 100
    assert "pytest-xdist" not in names
    known = {one.metadata["Name"].lower(): licence(one) for one in packages}
    assert "BSD" in known["torch"]
    assert "MIT" in known["pydicom"]
    assert all(known.values())


def test_the_page_holds_nothing_that_looks_like_a_patients():
    assert packages_table()["Licence"].str.len().max() <= 80
    assert "<td>torch</td><td>" in packages_page()
    assert find(packages_page()) == []
