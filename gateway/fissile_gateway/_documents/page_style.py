"""The style of the API page, and the policy under which a browser takes it: no script, nothing foreign, this style and no other."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

STYLE = """
:root{color-scheme:light dark;--text:#1c2024;--soft:#5b6470;--back:#fcfcfd;--card:#fff;--line:#e4e6ea;--code:#f3f4f6;--link:#0b57c2;
--get:#0f6e46;--post:#8a4500;--topic:#6a35a8}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--soft:#9aa3af;--back:#15171a;--card:#1b1e22;--line:#2b2f36;--code:#24282e;
--link:#7ab0ff;--get:#5fd0a0;--post:#f0ab66;--topic:#c49bf5}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--back)}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,pre:focus-visible,.wide:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:1rem;background:var(--card);padding:.5rem 1rem;z-index:1}
header{padding:2rem 1.5rem 1rem;max-width:78rem;margin:auto}
h1{margin:0;font-size:1.8rem;font-weight:650}
h2{margin:2.5rem 0 .25rem;font-size:1.35rem;font-weight:650}
h3{margin:0 0 .4rem;font-size:1.02rem;font-weight:600;display:flex;flex-wrap:wrap;gap:.3rem .6rem;align-items:baseline}
h3 a{color:inherit;text-decoration:none;overflow-wrap:anywhere}
h3 a:hover{text-decoration:underline}
h4{margin:1.1rem 0 .3rem;font-size:.78rem;font-weight:650;letter-spacing:.05em;text-transform:uppercase;color:var(--soft)}
p{margin:.35rem 0;max-width:46rem}
ul{margin:.35rem 0;padding-left:1.3rem}
.soft{color:var(--soft)}
.layout{display:grid;grid-template-columns:minmax(0,17rem) minmax(0,1fr);gap:2.5rem;max-width:78rem;margin:auto;padding:0 1.5rem 5rem}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding:1.2rem 0;font-size:.88rem}
nav ul{list-style:none;margin:0 0 .9rem;padding:0}
nav li{margin:.1rem 0}
nav strong{display:block;margin-bottom:.15rem}
nav a{display:block;padding:.12rem .4rem;border-radius:4px;text-decoration:none;color:var(--text);overflow-wrap:anywhere}
nav a:hover{background:var(--code)}
nav summary{display:none}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1.1rem 1.3rem 1.2rem;margin:1rem 0}
article:target{border-color:var(--link)}
.method{font:600 .74rem/1.7 ui-monospace,monospace;padding:0 .45rem;border:1px solid;border-radius:4px}
.get{color:var(--get)}.post{color:var(--post)}.topic{color:var(--topic)}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:.86em}
p code,li code,td code{background:var(--code);border-radius:3px;padding:.08em .3em;overflow-wrap:anywhere}
h3 code{font-size:.98em}
pre{background:var(--code);border-radius:6px;margin:.3rem 0;padding:.7rem .9rem;overflow:auto;line-height:1.45;max-height:26rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.8rem;padding:.15rem .9rem .15rem 0}
td{vertical-align:top;padding:.35rem .9rem .35rem 0;border-top:1px solid var(--line)}
td:first-child{white-space:nowrap;width:14rem}
td:nth-child(2):not(:last-child){width:12rem}
td p{margin:0 0 .2rem}
td ul{padding-left:1.1rem;margin:0}
.must{color:var(--post);font-size:.8rem}
.limits{color:var(--soft);font-size:.85rem}
details{margin-top:.9rem}
summary{cursor:pointer;color:var(--soft);font-size:.92rem}
@media(max-width:56rem){.layout{grid-template-columns:minmax(0,1fr);gap:0}nav{position:static;max-height:none;padding:0}
nav details{margin:0}nav summary{display:list-item;padding:.5rem 0}header,.layout{padding-left:1rem;padding-right:1rem}
article{padding:.9rem .9rem 1rem}td:first-child{white-space:normal;width:auto}td:nth-child(2):not(:last-child){width:auto}}
@media(min-width:56.01rem){nav details>div{display:block}}
@media print{nav{display:none}.layout{display:block}article{break-inside:avoid}}
"""

_DIGEST = b64encode(sha256(STYLE.encode()).digest()).decode()

PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The field Content-Security-Policy of the page."""
