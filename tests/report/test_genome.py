"""The genome page: drawn in a browser without network, everything of the run in it, text of others kept harmless."""

import importlib.util

import numpy as np
import pytest

from chargaff.io.bigwig import write_bigwig
from chargaff.report.genome import Feature, FeatureTrack, GenomePage, Stretch, ValueTrack, render_genome
from tests.report.browser import browser

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("igv_notebook") is None, reason="igv-notebook, which brings igv.js, is not installed"
)


@pytest.fixture
def page(tmp_path):
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ACGT"), 3000))
    write_bigwig(tmp_path / "a.bw", {"chr<1>": 9000}, [("chr<1>", 2000, np.abs(np.sin(np.arange(3000) / 90)))])
    return GenomePage(
        title="Elements of </script><b>one</b> & two",
        facts=[("model", "<i>tiny</i>"), ("bases", "3,000")],
        stretches=[Stretch("chr<1>", 2000, bases, 9000)],
        tracks=[
            ValueTrack("CDS+", (tmp_path / "a.bw").read_bytes()),
            FeatureTrack("calls", [Feature("chr<1>", 2100, 2300, "CDS+", "+", 0.8)]),
            FeatureTrack("genes", [Feature("chr<1>", 2050, 2900, "g1", "-", blocks=((2050, 2200), (2500, 2900)))]),
        ],
        locus="chr<1>:2,001-3,000",
        places=[("first gene", "chr<1>:2,051-2,900")],
    )


def test_a_browser_draws_every_track_without_network(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(render_genome(page))
    with browser() as tab:
        tab.open(path)
        assert tab.evaluate("window.ready") is True
        assert tab.evaluate("window.tracks") >= 5  # ideogram, ruler and sequence come with igv.js
        assert tab.evaluate("document.querySelector('h1').textContent") == page.title
        assert tab.evaluate("document.querySelectorAll('h1 b').length") == 0
        tab.evaluate("document.querySelector('button').click(); new Promise(done => setTimeout(() => done(1), 500))")
        assert tab.requests() == []
        assert [part for part in tab.complaints() if part.get("type") == "error" or "exceptionDetails" in part] == []
        assert len(tab.screenshot()) > 20_000
