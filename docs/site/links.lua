-- Links between the repository's texts become links between the site's pages. HV_LINKS names a table of what is in the
-- site (source, tab, target); HV_PAGE is this page's source, HV_TARGET where it goes. A link to a file that is not in the
-- site, source code for instance, stays as the file's name. Headings get a link to themselves, figures one to
-- the figure alone, for small screens; wide tables may be scrolled.

local links = {}
for line in io.lines(os.getenv("HV_LINKS")) do
	local source, target = line:match("^(.-)\t(.*)$")
	links[source] = target
end

local function folder(path)
	return path:match("^(.*)/[^/]*$") or ""
end

-- a/b/../c -> a/c
local function normal(path)
	local parts = {}
	for part in path:gmatch("[^/]+") do
		if part == ".." then
			table.remove(parts)
		elseif part ~= "." then
			table.insert(parts, part)
		end
	end
	return table.concat(parts, "/")
end

-- from one page's folder to another page
local function relative(target)
	local up = ""
	for _ in folder(os.getenv("HV_TARGET")):gmatch("[^/]+") do
		up = up .. "../"
	end
	return up .. target
end

local function mapped(target)
	local path, anchor = target:match("^([^#]*)(.*)$")
	local found = links[normal(folder(os.getenv("HV_PAGE")) .. "/" .. path)]
	return found and relative(found) .. anchor
end

function Link(link)
	local target = link.target
	if target:match("^%a[%w+.-]*:") or target:match("^#") then
		return link
	end
	local found = mapped(target)
	if found then
		link.target = found
		return link
	end
	return pandoc.Span(link.content, pandoc.Attr("", {"file"}, {title = normal(folder(os.getenv("HV_PAGE")) .. "/" .. target:gsub("#.*", ""))}))
end

function Image(image)
	image.src = mapped(image.src) or image.src
	return pandoc.Link({image}, image.src, "", pandoc.Attr("", {"figure"}))
end

function Header(header)
	if header.level > 1 and header.identifier ~= "" then
		header.content:insert(pandoc.Space())
		header.content:insert(pandoc.Link("#", "#" .. header.identifier, "", pandoc.Attr("", {"self"}, {["aria-label"] = "link to this section"})))
	end
	return header
end

function Table(t)
	return pandoc.Div({t}, pandoc.Attr("", {"scroll"}, {tabindex = "0", role = "region", ["aria-label"] = "table"}))
end
