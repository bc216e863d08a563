/** What shows that somebody works at a machine, in small copies of /sys, /run and /etc. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { findOwnerSigns, type OwnerSigns } from '../../../src/node/setup/measure/owner-signs.ts'

async function signsOf(
  files: Readonly<Record<string, string>>,
  links: Readonly<Record<string, string>> = {},
): Promise<OwnerSigns> {
  const root = mkdtempSync(join(tmpdir(), 'mesh-signs-'))
  const place = (path: string): string => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    return join(root, path)
  }
  try {
    for (const [path, text] of Object.entries(files)) writeFileSync(place(path), text)
    for (const [path, target] of Object.entries(links)) symlinkSync(target, place(path))
    return await findOwnerSigns(root)
  } finally {
    rmSync(root, { recursive: true })
  }
}

const SUPPLY = 'sys/class/power_supply'

test('owner-signs: a server has none', async () => {
  const files = {
    [`${SUPPLY}/AC/type`]: 'Mains\n',
    'sys/class/dmi/id/chassis_type': '23\n',
    'run/systemd/sessions/4': 'UID=0\nUSER=root\nTYPE=tty\n',
  }
  assert.deepEqual(await signsOf(files), { signs: [], hasBattery: false })
  assert.deepEqual(await signsOf({}), { signs: [], hasBattery: false })
})

test('owner-signs: a battery, but not that of a mouse', async () => {
  const mouse = { [`${SUPPLY}/hid/type`]: 'Battery\n', [`${SUPPLY}/hid/scope`]: 'Device\n' }
  assert.deepEqual(await signsOf(mouse), { signs: [], hasBattery: false })
  assert.deepEqual(await signsOf({ ...mouse, [`${SUPPLY}/BAT0/type`]: 'Battery\n' }), {
    signs: ['it has a battery (BAT0)'],
    hasBattery: true,
  })
})

test('owner-signs: the case of a notebook, a graphical session, a desktop', async () => {
  const { signs } = await signsOf(
    {
      'sys/class/dmi/id/chassis_type': '10\n',
      'run/systemd/sessions/2': 'UID=1000\nUSER=ann\nTYPE=wayland\nSEAT=seat0\n',
    },
    { 'etc/systemd/system/display-manager.service': '/lib/systemd/system/gdm.service' },
  )
  assert.deepEqual(signs, [
    'ann has a graphical session (wayland, session 2)',
    'a desktop starts at boot (gdm.service)',
    'its case is that of a notebook (type 10)',
  ])
})

test('owner-signs: the pipe beside a session is not read, for that would never end', async () => {
  const pipe = join(mkdtempSync(join(tmpdir(), 'mesh-signs-')), 'pipe')
  execFileSync('mkfifo', [pipe])
  try {
    const files = { 'run/systemd/sessions/4': 'USER=root\nTYPE=tty\n' }
    const found = await signsOf(files, { 'run/systemd/sessions/3.ref': pipe })
    assert.deepEqual(found, { signs: [], hasBattery: false })
  } finally {
    rmSync(dirname(pipe), { recursive: true })
  }
})
