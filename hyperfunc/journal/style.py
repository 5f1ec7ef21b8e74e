"""The report's style sheet; light or dark as the reader's system is."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6677;--line:#dfe4ec;--card:#fff;--page:#f4f6f9;--accent:#2f6fde;
--good:#1f7a45;--bad:#c0292c;--goodbg:#d9f2e3;--badbg:#fbdcdc}
@media (prefers-color-scheme:dark){:root{--ink:#e7ebf2;--soft:#98a4b6;--line:#2d3644;--card:#171d27;--page:#0f141b;
--accent:#7aa7f7;--good:#62cf8f;--bad:#f08a8a;--goodbg:#143524;--badbg:#43191b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 60px}
h1{margin:0 0 14px;font-size:26px;overflow-wrap:anywhere}
h2{margin:0 0 14px;font-size:18px}
h3{margin:18px 0 6px;font-size:14px;font-family:ui-monospace,monospace}
h4{margin:8px 0 2px;font-size:12px}
header dl{display:flex;flex-wrap:wrap;gap:10px;margin:0}
header dl div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:8px 14px}
dt{font-size:12px;color:var(--soft)}
dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:14px;margin:18px 0}
nav a{color:var(--accent);text-decoration:none}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin-bottom:18px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}
figure{margin:0;min-width:0}
figcaption{font-weight:600;font-size:13px;margin-bottom:4px}
svg{max-width:none}
.chart{width:100%;height:auto}
.chart text,.lineage text{font:11px system-ui,sans-serif;fill:var(--soft)}
.chart .grid{stroke:var(--line)}
.chart polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;margin:2px 0 0;padding:0 0 0 56px;list-style:none;font-size:12px}
.legend span{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
.lineage path{fill:none;stroke:var(--soft);stroke-opacity:.45;stroke-width:1.4}
.lineage circle{fill:var(--soft)}
.lineage .accepted circle{fill:var(--good)}
.lineage .seed circle{fill:var(--accent)}
.lineage .rejected circle,.lineage .failed circle{fill:var(--card);stroke:var(--bad);stroke-width:2}
.lineage circle.best{fill:none;stroke:var(--good);stroke-width:2}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px}
th{text-align:left;color:var(--soft);font-weight:600;white-space:nowrap}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
pre,code{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--page);border-radius:8px;padding:10px 12px;margin:4px 0}
ins{background:var(--goodbg);color:var(--good);text-decoration:underline}
del{background:var(--badbg);color:var(--bad);text-decoration:line-through}
.empty{color:var(--soft);margin:0}
.status{text-transform:capitalize}
.finished,.accepted{color:var(--good)}
.failed,.rejected,.interrupted{color:var(--bad)}
.running,.seed{color:var(--accent)}
.lineage .finished text,.lineage g text{fill:var(--soft)}
.name{white-space:nowrap}
details summary{cursor:pointer;color:var(--accent)}
"""
