# The documentation as a site: pandoc with a template and a style sheet of our own (docs/site). `make docs` writes it to
# $(BUILD)/docs/site and checks each link and anchor in it; it can be opened from the disk or served by anything.
# `make handout` renders the labs' part alone, for a student's tree.
DOC_TEXTS := $(sort $(wildcard README.md docs/*.md docs/labs/*.md docs/labs/*.svg docs/man/*.[1-8] guests/README.md labs/README.md docs/site/*))

.PHONY: docs
docs: $(BUILD)/docs/stamp ## Render the documentation as a site in build/docs/site
$(BUILD)/docs/stamp: $(DOC_TEXTS) tests/check_doc_links.py
	@tests/deps docs
	$(call say,SITE  $(BUILD)/docs/site)
	$(Q)docs/site/build $(BUILD)/docs/site $(VERSION)
	$(Q)tests/check_doc_links.py --site $(BUILD)/docs/site
	@touch $@
