#!/bin/bash
# The documentation can be rendered as a site, and every link and anchor in the site leads somewhere.
set -euo pipefail

for program in pandoc mandoc; do
	if ! command -v "$program" >/dev/null; then
		echo "$program is not installed; tests/deps docs installs it"
		exit 77
	fi
done
"$SRC/docs/site/build" "$TMP/site" test
"$SRC/tests/check_doc_links.py" --site "$TMP/site"

# A student's tree has the labs' pages only.
"$SRC/docs/site/build" "$TMP/labs" test docs/labs
"$SRC/tests/check_doc_links.py" --site "$TMP/labs"
if [ ! -e "$TMP/labs/index.html" ] || [ -e "$TMP/labs/architecture.html" ]; then
	echo "a site of docs/labs is not one of docs/labs"
	exit 1
fi

# It replaces what it made, and leaves alone what it didn't.
"$SRC/docs/site/build" "$TMP/labs" again docs/labs >/dev/null
mkdir "$TMP/other"
touch "$TMP/other/mine"
if "$SRC/docs/site/build" "$TMP/other" test 2>"$TMP/said" || ! grep -q "left alone" "$TMP/said" || [ ! -e "$TMP/other/mine" ]; then
	echo "a folder that isn't the site's was not left alone"
	exit 1
fi

# The link checker sees what is wrong.
bad=$TMP/bad
mkdir "$bad"
cat >"$bad/a.md" <<'END'
# A title, with `code`
[good](#a-title-with-code) [good](b.md#two-words) [out](https://example.org/x)
`[no](link.md)` and
```
[no](link.md)
```
[gone](c.md) [anchor](b.md#three) [self](#nothing) [out](../../etc/passwd) [scheme](javascript:x) [host](https://)
END
printf '## Two words\n' >"$bad/b.md"
if "$SRC/tests/check_doc_links.py" --root "$bad" >"$TMP/said"; then
	echo "wrong links are not seen"
	exit 1
fi
if [ "$(wc -l <"$TMP/said")" -ne 6 ]; then
	echo "not six wrong links:"
	cat "$TMP/said"
	exit 1
fi
