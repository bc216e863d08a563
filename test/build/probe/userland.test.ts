/** What a root file system is for, found by looking (R10, R11, T37, T92). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseOsRelease, readUserland, resolveIn } from '../../../src/build/probe/userland.ts'
import { makeRoot, type Content } from './roots.ts'

const DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n'

const CASES: readonly {
  readonly what: string
  readonly files: Readonly<Record<string, Content>>
  readonly system: string | undefined
  readonly label: string
}[] = [
  {
    what: 'a 32-bit userland is one, whatever the kernel',
    files: {
      'bin/sh': { link: 'dash' },
      'bin/dash': { program: 'i686-linux' },
      'etc/os-release': DEBIAN,
    },
    system: 'i686-linux',
    label: 'debian-12',
  },
  {
    what: 'merged /usr, with links that are absolute: they are followed inside',
    files: {
      bin: { link: '/usr/bin' },
      'usr/bin/sh': { link: '/usr/bin/bash' },
      'usr/bin/bash': { program: 'aarch64-linux' },
      'etc/os-release': { link: '/usr/lib/os-release' },
      'usr/lib/os-release': 'ID=arch\n',
    },
    system: 'aarch64-linux',
    label: 'arch',
  },
  {
    what: 'big-endian programs',
    files: { 'bin/sh': { program: 's390x-linux' }, 'etc/os-release': 'ID=sles\nVERSION_ID=15.6\n' },
    system: 's390x-linux',
    label: 'sles-15.6',
  },
  {
    what: 'no shell, but one C library',
    files: { 'lib/riscv64-linux-gnu/libc.so.6': { program: 'riscv64-linux' } },
    system: 'riscv64-linux',
    label: 'linux',
  },
  {
    what: 'two C libraries and no program: nobody knows',
    files: {
      'lib/x86_64-linux-gnu/libc.so.6': { program: 'x86_64-linux' },
      'lib/i386-linux-gnu/libc.so.6': { program: 'i686-linux' },
    },
    system: undefined,
    label: 'linux',
  },
  {
    what: 'a shell that is a script is no witness; links in a circle end',
    files: { 'bin/sh': '#!/bin/other\n', 'usr/bin/env': { link: 'env' } },
    system: undefined,
    label: 'linux',
  },
  { what: 'an empty directory', files: {}, system: undefined, label: 'linux' },
]

for (const { what, files, system, label } of CASES)
  test(`userland: ${what}`, async () => {
    await using root = await makeRoot(files)
    const found = await readUserland(root.path)
    assert.equal(found.system, system)
    assert.equal(found.platform.label, label)
  })

test('userland: no link leads out of the root', async () => {
  await using root = await makeRoot({
    'bin/sh': { link: '../../../../../../../../bin/sh' },
    'a/up': { link: '../../..' },
    'etc/hosts': 'x',
  })
  assert.equal(await resolveIn(root.path, '/bin/sh'), undefined)
  assert.equal(await resolveIn(root.path, '/a/up/etc/hosts'), '/etc/hosts')
  assert.equal((await readUserland(root.path)).system, undefined)
})

test('userland: os-release is read with and without quotes', () => {
  assert.deepEqual(parseOsRelease('ID=debian\nVERSION_ID="12"\n'), { id: 'debian', version: '12' })
  assert.deepEqual(parseOsRelease("NAME='x'\nID='arch'\n"), { id: 'arch', version: '' })
  assert.deepEqual(parseOsRelease(''), { id: 'linux', version: '' })
})
