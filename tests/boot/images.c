/*
 * Images made by the tests: see images.h.
 */
#include "images.h"

static size_t phdr_at(const struct image *image, unsigned i)
{
	return image->is64 ? sizeof(Elf64_Ehdr) + i * sizeof(Elf64_Phdr)
			   : sizeof(Elf32_Ehdr) + i * sizeof(Elf32_Phdr);
}

static void set_phnum(struct image *image, unsigned phnum)
{
	image->phnum = phnum;
	hv_put_le16(image->bytes + (image->is64 ? 56 : 44), (uint16_t)phnum);
}

unsigned image_add_phdr(struct image *image, uint32_t type, uint64_t offset, uint64_t vaddr, uint64_t paddr,
			uint64_t filesz, uint64_t memsz)
{
	uint8_t *at = image->bytes + phdr_at(image, image->phnum);

	if (image->is64) {
		Elf64_Phdr ph = {type, PF_R | PF_W | PF_X, offset, vaddr, paddr, filesz, memsz, 4};
		memcpy(at, &ph, sizeof(ph));
	} else {
		Elf32_Phdr ph = {type,
				 (uint32_t)offset,
				 (uint32_t)vaddr,
				 (uint32_t)paddr,
				 (uint32_t)filesz,
				 (uint32_t)memsz,
				 PF_R | PF_W | PF_X,
				 4};
		memcpy(at, &ph, sizeof(ph));
	}
	set_phnum(image, image->phnum + 1);
	return image->phnum - 1;
}

void image_set_entry(struct image *image, uint64_t entry)
{
	if (image->is64)
		hv_put_le64(image->bytes + 24, entry);
	else
		hv_put_le32(image->bytes + 24, (uint32_t)entry);
}

void image_set_code(struct image *image, const void *code, size_t size)
{
	cr_assert_leq(size, IMAGE_FILE);
	memcpy(image->bytes + IMAGE_CODE, code, size);
}

struct image image_elf(bool is64)
{
	struct image image = {.size = IMAGE_CODE + IMAGE_FILE, .is64 = is64};
	uint8_t ident[EI_NIDENT] = {0x7f,        'E',       'L', 'F', is64 ? ELFCLASS64 : ELFCLASS32,
				    ELFDATA2LSB, EV_CURRENT};

	if (is64) {
		Elf64_Ehdr h = {.e_type = ET_EXEC,
				.e_machine = EM_X86_64,
				.e_version = EV_CURRENT,
				.e_phoff = sizeof(Elf64_Ehdr),
				.e_ehsize = sizeof(Elf64_Ehdr),
				.e_phentsize = sizeof(Elf64_Phdr)};
		memcpy(image.bytes, &h, sizeof(h));
	} else {
		Elf32_Ehdr h = {.e_type = ET_EXEC,
				.e_machine = EM_386,
				.e_version = EV_CURRENT,
				.e_phoff = sizeof(Elf32_Ehdr),
				.e_ehsize = sizeof(Elf32_Ehdr),
				.e_phentsize = sizeof(Elf32_Phdr)};
		memcpy(image.bytes, &h, sizeof(h));
	}
	memcpy(image.bytes, ident, sizeof(ident));
	memset(image.bytes + IMAGE_CODE, 0x90, IMAGE_FILE);
	image_set_entry(&image, IMAGE_BASE);
	image_add_phdr(&image, PT_LOAD, IMAGE_CODE, IMAGE_BASE, IMAGE_BASE, IMAGE_FILE, IMAGE_MEM);
	return image;
}

void image_add_note(struct image *image, const char *name, uint32_t type, uint64_t value, unsigned size)
{
	uint32_t namesz = (uint32_t)strlen(name) + 1;
	uint64_t at = IMAGE_NOTES + image->phnum * 0x40;
	uint8_t *note = image->bytes + at;

	hv_put_le32(note, namesz);
	hv_put_le32(note + 4, size);
	hv_put_le32(note + 8, type);
	memcpy(note + 12, name, namesz);
	memcpy(note + 12 + hv_round_up(namesz, 4), &value, size);
	image_add_phdr(image, PT_NOTE, at, 0, 0, 12 + hv_round_up(namesz, 4) + size, 0);
}

void image_add_multiboot(struct image *image, size_t at, uint32_t flags, const uint32_t addresses[5])
{
	hv_put_le32(image->bytes + at, 0x1badb002);
	hv_put_le32(image->bytes + at + 4, flags);
	hv_put_le32(image->bytes + at + 8, 0u - 0x1badb002u - flags);
	for (unsigned i = 0; addresses && i < 5; i++)
		hv_put_le32(image->bytes + at + 12 + i * 4, addresses[i]);
}

struct hv_boot_request image_request(const struct image *image)
{
	return (struct hv_boot_request){.path = "image",
					.data = image->bytes,
					.size = image->size,
					.load_addr = 0x1000,
					.cmdline = ""};
}

void ram_init(struct hv_memory *mem, uint64_t size)
{
	struct hv_error err = {0};

	hv_memory_init(mem, NULL);
	cr_assert_eq(hv_memory_add_ram(mem, size, &err), 0, "%s", err.text);
}

uint32_t ram32(const struct hv_memory *mem, uint64_t gpa)
{
	uint32_t v = 0;

	cr_assert_eq(hv_memory_read(mem, gpa, &v, sizeof(v)), 0);
	return v;
}

uint64_t ram64(const struct hv_memory *mem, uint64_t gpa)
{
	uint64_t v = 0;

	cr_assert_eq(hv_memory_read(mem, gpa, &v, sizeof(v)), 0);
	return v;
}

const char *ram_string(const struct hv_memory *mem, uint64_t gpa)
{
	const char *s = hv_memory_at(mem, gpa, 256);

	cr_assert(s && memchr(s, 0, 256), "no string at 0x%lx", (unsigned long)gpa);
	return s;
}
