/** What is seen of a machine: of made-up ones, and of this one. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { isOnBattery } from '../../../src/node/policy/sensors/battery.ts'
import { ForeignCpu } from '../../../src/node/policy/sensors/cpu-time.ts'
import { MachineFiles } from '../../../src/node/policy/sensors/machine-files.ts'
import { memoryForBuilds, memoryStall } from '../../../src/node/policy/sensors/memory.ts'
import { pageBytes, usageBelow } from '../../../src/node/policy/sensors/own-processes.ts'
import { readPresence } from '../../../src/node/policy/sensors/presence.ts'
import { openSensors } from '../../../src/node/policy/sensors/sensors.ts'
import type { AskLogind } from '../../../src/node/policy/sensors/sessions.ts'
import type { Presence } from '../../../src/node/policy/reading.ts'
import { systemClock } from '../../../src/base/clock.ts'
import { FakeMachine } from './fake-machine.ts'

const NOW = Date.parse('2026-01-05T12:00:00Z')
const MIB = 1024 ** 2

async function presenceAt(
  machine: FakeMachine,
  ask?: AskLogind,
): Promise<{ presence: Presence; missing: string[] }> {
  const missing: string[] = []
  const files = new MachineFiles(machine.root)
  return { presence: await readPresence({ files, ask }, NOW, missing), missing }
}

test('presence: of all terminals the one that was typed at last, with the name of its session', async () => {
  using machine = new FakeMachine()
  machine.typed('tty1', NOW - 3_600_000)
  machine.typed('tty2', NOW - 4_000)
  machine.typed('pts/7', NOW - 60_000)
  machine.session('2', { USER: 'ann', UID: '1000', TYPE: 'tty', TTY: 'tty2', SEAT: 'seat0' })
  const { presence, missing } = await presenceAt(machine)
  assert.deepEqual(presence, { kind: 'somebody', who: 'ann', where: 'tty2', idleMs: 4_000 })
  assert.deepEqual(missing, [])
})

test('presence: a remote login and a window count, known by whose they are', async () => {
  using machine = new FakeMachine()
  machine.typed('tty1', NOW - 3_600_000)
  machine.typed('pts/7', NOW - 60_000)
  machine.write('etc/passwd', `root:x:0:0::/:/bin/sh\nbob:x:${process.getuid?.()}:1::/:/bin/sh\n`)
  const { presence, missing } = await presenceAt(machine)
  assert.equal(presence.kind, 'somebody')
  assert.ok(presence.kind === 'somebody')
  assert.deepEqual([presence.where, presence.idleMs], ['pts/7', 60_000])
  assert.ok(['root', 'bob'].includes(presence.who))
  assert.deepEqual(missing, ['no logind: there is no /run/systemd/sessions'])
})

test('presence: greeters, closed sessions and the manager of a user are nobody', async () => {
  using machine = new FakeMachine()
  machine.session('c1', { USER: 'gdm', CLASS: 'greeter', TYPE: 'wayland', SEAT: 'seat0' })
  machine.session('4', { USER: 'ann', STATE: 'closing', TYPE: 'x11' })
  machine.session('5', { USER: 'ann', CLASS: 'manager' })
  assert.deepEqual((await presenceAt(machine)).presence, { kind: 'nobody' })
})

test('presence: a desktop is idle since logind says so, and in use while it says nothing', async () => {
  using machine = new FakeMachine()
  machine.session('3', { USER: 'ann', TYPE: 'wayland', SEAT: 'seat0', TTY: 'tty2' })
  machine.typed('tty2', NOW - 9_000_000)
  const asked: (readonly string[])[] = []
  const answering =
    (answer: string | undefined): AskLogind =>
    (args) => {
      asked.push(args)
      return Promise.resolve(answer)
    }
  const since = (NOW - 700_000) * 1000
  const idle = await presenceAt(machine, answering(`Id=3\nIdleHint=yes\nIdleSinceHint=${since}\n`))
  assert.deepEqual(idle.presence, {
    kind: 'somebody',
    who: 'ann',
    where: 'wayland on seat0',
    idleMs: 700_000,
  })
  assert.deepEqual(asked, [['show-session', '3', '--property=Id,IdleHint,IdleSinceHint']])
  const busy = await presenceAt(machine, answering('IdleHint=no\nIdleSinceHint=0\nId=3\n'))
  assert.ok(busy.presence.kind === 'somebody')
  assert.equal(busy.presence.idleMs, 0)
  const silent = await presenceAt(machine, answering(undefined))
  assert.ok(silent.presence.kind === 'somebody')
  assert.equal(silent.presence.idleMs, undefined)
  assert.deepEqual(silent.missing, ['nothing tells whether ann is idle (wayland on seat0)'])
})

test('presence: a container with terminals of its own only does not know', async () => {
  using machine = new FakeMachine()
  machine.typed('pts/0', NOW)
  const { presence, missing } = await presenceAt(machine)
  assert.deepEqual(presence, { kind: 'unknown' })
  assert.match(missing.join('; '), /no logind.*no console/)
})

test('presence: names of users and terminals that are no names lead nowhere', async () => {
  using machine = new FakeMachine()
  machine.write('run/systemd/sessions/2.ref', 'x')
  machine.session('2', { USER: 'ann', TYPE: 'tty', TTY: '../etc/absent' })
  assert.deepEqual((await presenceAt(machine)).presence, { kind: 'nobody' })
})

const stat = (busy: number): string =>
  `cpu  ${busy} 0 0 900 50 0 0 70 30 0\ncpu0 1 1\ncpu1 1 1\nintr 1\n`

test('foreign cpu: all that was used less what is ours, in processors', () => {
  using machine = new FakeMachine()
  const foreign = new ForeignCpu(new MachineFiles(machine.root))
  const missing: string[] = []
  const own = (ticks: number, other?: number): Map<number, number> =>
    new Map([[1, ticks], ...(other === undefined ? [] : [[2, other] satisfies [number, number]])])
  machine.write('proc/stat', stat(1000))
  assert.deepEqual(foreign.read(own(0), 0, missing), { cpus: 2, foreignCpus: 'soon' })
  // 400 ticks in 2 s are two processors; all of it is ours.
  machine.write('proc/stat', stat(1400))
  assert.equal(foreign.read(own(400), 2000, missing).foreignCpus, 0)
  machine.write('proc/stat', stat(1800))
  assert.equal(foreign.read(own(500), 4000, missing).foreignCpus, 1.5)
  assert.equal(foreign.read(own(500), 4100, missing).foreignCpus, 1.5, 'too soon to tell anew')
  machine.write('proc/stat', stat(2000))
  assert.equal(
    foreign.read(own(100), 6000, missing).foreignCpus,
    1,
    'a process of ours was lost sight of',
  )
  // One that came with a past of its own, and has used half a processor since.
  foreign.read(own(100, 5000), 8000, missing)
  machine.write('proc/stat', stat(2200))
  assert.equal(foreign.read(own(100, 5100), 10_000, missing).foreignCpus, 0.5)
  assert.deepEqual(missing, [])
  machine.remove('proc/stat')
  assert.deepEqual(foreign.read(own(0), 12_000, missing), {
    cpus: undefined,
    foreignCpus: undefined,
  })
  assert.equal(missing.length, 1)
})

test(
  'foreign cpu: what our own builds use is ours, ended ones included',
  { skip: process.platform === 'linux' ? false : 'needs /proc of Linux' },
  async () => {
    const before = usageBelow(process.pid)
    // Each inner shell ends after a while of work and is waited for by the outer one, as a compiler by make.
    const script =
      'for i in 1 2 3; do sh -c "i=0; while [ \\$i -lt 60000 ]; do i=\\$((i+1)); done"; done; echo done; read wait'
    const child = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] })
    await once(child.stdout, 'data')
    const running = usageBelow(process.pid)
    child.stdin.end('\n')
    await once(child, 'close')
    const after = usageBelow(process.pid)
    assert.ok(
      running.cpuTicks - before.cpuTicks >= 3,
      `${running.cpuTicks - before.cpuTicks} ticks`,
    )
    assert.ok(running.residentPages > before.residentPages)
    assert.ok(after.cpuTicks >= running.cpuTicks, 'nothing is forgotten at its end')
  },
)

test('own processes: names with blanks and parentheses, children of any thread', () => {
  using machine = new FakeMachine()
  const proc = (pid: number, name: string, times: string, rss: number, kids: string): void => {
    machine.write(
      `${pid}/stat`,
      `${pid} (${name}) S 1 1 1 0 -1 0 0 0 0 0 ${times} 20 0 1 0 100 1000 ${rss} 0 0\n`,
    )
    machine.write(`${pid}/task/${pid}/children`, '')
    machine.write(`${pid}/task/${pid + 1}/children`, kids)
  }
  proc(10, 'node', '1 2 3 4', 500, '20 30 ')
  proc(20, 'a) R 1 (', '10 0 0 5', 7, '')
  assert.deepEqual(usageBelow(10, machine.root), { cpuTicks: 25, residentPages: 7 })
  assert.equal(pageBytes(500 * 4096, machine.root, 10), 4096)
  assert.equal(pageBytes(500 * 16_384, machine.root, 10), 16_384)
})

test('memory: what is free and what builds have, less what is left to others', () => {
  using machine = new FakeMachine()
  const files = new MachineFiles(machine.root)
  const missing: string[] = []
  machine.write(
    'proc/meminfo',
    'MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n',
  )
  assert.equal(memoryForBuilds(files, 2048 * MIB, missing), (4096 + 2048 - 1024) * MIB)
  machine.write('proc/meminfo', 'MemTotal: 1048576 kB\nMemAvailable: 65536 kB\n')
  assert.equal(memoryForBuilds(files, 0, missing), (64 - 128) * MIB, 'a small one leaves an eighth')
  machine.write(
    'proc/pressure/memory',
    'some avg10=50.00 avg60=0 avg300=0 total=1\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=9\n',
  )
  assert.equal(memoryStall(files, missing), 0.125)
  assert.deepEqual(missing, [])
  machine.remove('proc')
  assert.equal(memoryForBuilds(files, 0, missing), undefined)
  assert.equal(memoryStall(files, missing), undefined)
  assert.equal(missing.length, 2)
})

test('battery: discharging with no mains, but not that of a mouse', () => {
  using machine = new FakeMachine()
  const files = new MachineFiles(machine.root)
  assert.equal(isOnBattery(files), undefined)
  const supply = (name: string, values: Readonly<Record<string, string>>): void => {
    for (const [key, value] of Object.entries(values))
      machine.write(`sys/class/power_supply/${name}/${key}`, `${value}\n`)
  }
  supply('hidpp_battery_0', { type: 'Battery', scope: 'Device', status: 'Discharging' })
  assert.equal(isOnBattery(files), false)
  supply('AC', { type: 'Mains', online: '0' })
  supply('BAT0', { type: 'Battery', status: 'Discharging' })
  assert.equal(isOnBattery(files), true)
  supply('AC', { online: '1' })
  assert.equal(isOnBattery(files), false, 'a weak supply: it is plugged in')
  supply('AC', { online: '0' })
  supply('BAT0', { status: 'Full' })
  assert.equal(isOnBattery(files), false)
})

test('sensors: a policy that asks for nothing reads nothing, and an empty machine is told of as that', async () => {
  using machine = new FakeMachine()
  mkdirSync(join(machine.root, 'proc'))
  const read = openSensors({ clock: systemClock() }, { root: machine.root })
  assert.deepEqual((await read('dedicated')).missing, [])
  const {
    presence,
    foreignCpus,
    memoryBytes,
    isOnBattery: battery,
    missing,
  } = await read('when-idle')
  assert.deepEqual(
    [presence.kind, foreignCpus, memoryBytes, battery],
    ['unknown', undefined, undefined, undefined],
  )
  assert.equal(missing.length, 5, missing.join('; '))
})
