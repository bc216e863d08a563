/** How kernels are told of emulators, and what they tell of them. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import {
  QEMU_FORMATS,
  readRegistered,
  registeredFor,
  registrationOf,
} from '../../../src/build/probe/emulators.ts'
import { ELF_KINDS } from '../../../src/build/probe/trial-program.ts'
import { makeRoot, programOf } from './roots.ts'

test('emulators: the line for the kernel, as binfmt_misc.rst has it', () => {
  assert.equal(
    registrationOf('aarch64-linux', { path: '/usr/bin/qemu-aarch64-static', flags: 'F' }),
    String.raw`:mesh-aarch64-linux:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F`,
  )
  assert.throws(() => registrationOf('vax-linux', { path: '/q', flags: 'F' }), /vax-linux/)
  assert.throws(() => registrationOf('i686-linux', { path: '/a:b', flags: 'F' }), /colon/)
})

test('emulators: formats are those of the distribution', async (t) => {
  const names: Readonly<Record<string, string>> = {
    'aarch64-linux': 'aarch64',
    'armv7l-linux': 'arm',
    'riscv64-linux': 'riscv64',
    's390x-linux': 's390x',
  }
  let compared = 0
  for (const [system, name] of Object.entries(names)) {
    const text = await readFile(`/usr/lib/binfmt.d/qemu-${name}.conf`, 'utf8').catch(() => '')
    const magic = text.split(':')[4]
    if (magic === undefined) continue
    compared += 1
    const format = QEMU_FORMATS.get(system)
    assert.equal(format?.magic, magic.replace('ELF', String.raw`\x45\x4c\x46`))
  }
  if (compared === 0) t.skip('this machine has no /usr/lib/binfmt.d/qemu-*.conf (qemu-user-static)')
})

test('emulators: each format takes the programs of its system, and no others', () => {
  const registered = [...QEMU_FORMATS].map(([name, { magic, mask }]) => ({
    name,
    interpreter: '/x',
    flags: 'F',
    magic: Buffer.from(magic.replaceAll(String.raw`\x`, ''), 'hex'),
    mask: Buffer.from(mask.replaceAll(String.raw`\x`, ''), 'hex'),
  }))
  for (const system of ELF_KINDS.keys()) {
    assert.equal(registeredFor(registered, programOf(system))?.name, system)
    // Static programs with resolvers of the C library say that they are for Linux; shared ones are another type.
    const other = programOf(system)
    other[7] = 3
    other[other[5] === 2 ? 17 : 16] = 3
    assert.equal(registeredFor(registered, other)?.name, system)
  }
  assert.equal(registeredFor(registered, Buffer.from('#!/bin/sh\n')), undefined)
})

test('emulators: only registrations that are switched on, and can be understood, count', async () => {
  const entry = (head: string, offset = 0): string =>
    `${head}\ninterpreter /usr/bin/qemu\nflags: F\noffset ${offset}\nmagic 7f454c46\nmask ffffffff\n`
  await using root = await makeRoot({
    'proc/sys/fs/binfmt_misc/status': 'enabled\n',
    'proc/sys/fs/binfmt_misc/a': entry('enabled'),
    'proc/sys/fs/binfmt_misc/b': entry('disabled'),
    'proc/sys/fs/binfmt_misc/c': entry('enabled', 4),
    'proc/sys/fs/binfmt_misc/d': 'enabled\ninterpreter /x\nflags:\nextension .exe\n',
    'proc/sys/fs/binfmt_misc/e': '',
    'proc/sys/fs/binfmt_misc/f': 'enabled\ninterpreter /y\nflags: \noffset 0\nmagic cafebabe\n',
  })
  const found = await readRegistered(root.path)
  assert.deepEqual(
    found.map(({ name, interpreter, flags }) => [name, interpreter, flags]),
    [
      ['a', '/usr/bin/qemu', 'F'],
      ['f', '/y', ''],
    ],
  )
  assert.equal(found[1]?.mask.toString('hex'), 'ffffffff')
  await using off = await makeRoot({
    'proc/sys/fs/binfmt_misc/status': 'disabled\n',
    'proc/sys/fs/binfmt_misc/a': entry('enabled'),
  })
  assert.deepEqual(await readRegistered(off.path), [])
  await using none = await makeRoot()
  assert.deepEqual(await readRegistered(none.path), [])
})
