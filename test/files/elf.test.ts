/** ELF files of all widths and byte orders are read, and no damaged one throws. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseElf, readElf } from '../../src/files/elf.ts'
import { elfFile } from './elf-file.ts'

const SYSTEMS = [
  ['x86_64-linux', 62, 64, true],
  ['i686-linux', 3, 32, true],
  ['aarch64-linux', 183, 64, true],
  ['armv7l-linux', 40, 32, true],
  ['riscv64-linux', 243, 64, true],
  ['powerpc64le-linux', 21, 64, true],
  ['s390x-linux', 22, 64, false],
] as const

for (const [system, machine, bits, isLittle] of SYSTEMS)
  test(`elf: a program for ${system} is recognised, with all that it needs`, () => {
    const elf = parseElf(
      elfFile({
        machine,
        bits,
        isLittle,
        interpreter: '/lib/ld.so',
        needed: ['libm.so.6', 'libc.so.6'],
        rpath: '$ORIGIN/../lib:/opt/lib',
        soname: 'libown.so.1',
      }),
    )
    assert.deepEqual(elf, {
      system,
      bits,
      machine,
      kind: 'shared',
      interpreter: '/lib/ld.so',
      needed: ['libm.so.6', 'libc.so.6'],
      rpath: ['$ORIGIN/../lib', '/opt/lib'],
      runpath: [],
      soname: 'libown.so.1',
    })
  })

test('elf: the program that runs this test is one, its directory and this file are none', () => {
  const elf = readElf(process.execPath)
  assert.match(elf?.system ?? '', /-linux$/)
  assert.ok(elf?.needed.includes('libc.so.6'))
  assert.match(elf?.interpreter ?? '', /^\/lib/)
  assert.equal(readElf(import.meta.filename), undefined)
  assert.equal(readElf(import.meta.dirname), undefined)
  assert.equal(readElf('/nonexistent/program'), undefined)
})

test('elf: a static program needs nothing', () => {
  const elf = parseElf(elfFile({ machine: 62, bits: 64, isLittle: true }))
  assert.deepEqual([elf?.interpreter, elf?.needed, elf?.soname], [undefined, [], undefined])
})

test('elf: whatever is cut off or changed, nothing throws, from memory and from a file', () => {
  const whole = elfFile({
    machine: 62,
    bits: 64,
    isLittle: true,
    interpreter: '/lib/ld.so',
    needed: ['libc.so.6'],
    rpath: '/opt',
  })
  const directory = mkdtempSync(join(tmpdir(), 'mesh-elf-'))
  try {
    const path = join(directory, 'file')
    fc.assert(
      fc.property(
        fc.nat(whole.byteLength),
        fc.array(fc.tuple(fc.nat(whole.byteLength - 1), fc.nat(255)), { maxLength: 12 }),
        (length, changes) => {
          const bytes = Buffer.from(whole)
          for (const [at, value] of changes) bytes[at] = value
          const cut = bytes.subarray(0, length)
          writeFileSync(path, cut)
          assert.deepEqual(readElf(path), parseElf(cut))
        },
      ),
      { numRuns: 500 },
    )
  } finally {
    rmSync(directory, { recursive: true })
  }
})
