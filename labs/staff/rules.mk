# A term's release: archives for students, for staff and for other graders, with the term's own seeds.
#
# TERM is also what a shell calls its terminal, so only one that was given to make counts.
RELEASES ?= $(BUILD)/release

.PHONY: release
release: handout ## Make a term's archives in build/release/ (TERM=2027S; USERS=FILE for one archive a student)
	$(Q)$(if $(filter command,$(firstword $(origin TERM))),,echo "say which term: make release TERM=2027S" >&2; exit 2)
	$(Q)$(if $(filter command,$(firstword $(origin TERM))),labs/staff/release.py --term "$(TERM)" --handout $(HANDOUT) --out $(RELEASES) \
		$(if $(USERS),--users "$(USERS)"))
