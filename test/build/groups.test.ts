/** Control groups of builds: where they are made, on both versions of the interface, and what they do. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import {
  kernelControlFiles,
  numberIn,
  type ControlFiles,
} from '../../src/build/groups/control-files.ts'
import { openGroups } from '../../src/build/groups/executor-groups.ts'
import { CONTROLS, findPlaces, type Control } from '../../src/build/groups/group-places.ts'
import { findHierarchies } from '../../src/build/groups/hierarchies.ts'
import { findProcess } from '../../src/build/process-list.ts'
import { until } from './builds.ts'
import { FakeCgroups } from './fake-cgroups.ts'

const OWNER = { self: 12, daemon: 11, name: 'mesh-x' }
const ALL = ['memory', 'processes', 'cpu', 'freeze', 'kill']
const SERVICE = '/system.slice/mesh-node.service'

test('groups: a daemon alone in a delegated group moves into a leaf, for a group with processes divides nothing', () => {
  const files = new FakeCgroups(SERVICE)
  files.prepare(SERVICE, { pids: [11, 12] })
  const { of, reasons } = findPlaces(files, OWNER)
  assert.deepEqual(Object.keys(of), ALL)
  assert.deepEqual(reasons, [])
  assert.equal(of.memory?.path, `/sys/fs/cgroup${SERVICE}/mesh-x`)
  assert.deepEqual(files.pidsIn(SERVICE), [])
  assert.deepEqual(files.pidsIn(`${SERVICE}/mesh-daemon`), [11, 12])
})

test('groups: an executor that is started again finds the leaf and makes none below it', () => {
  const files = new FakeCgroups(`${SERVICE}/mesh-daemon`)
  files.prepare(`${SERVICE}/mesh-daemon`, { pids: [11, 12] })
  const { of } = findPlaces(files, OWNER)
  assert.equal(of.memory?.path, `/sys/fs/cgroup${SERVICE}/mesh-x`)
  assert.deepEqual(files.pidsIn(`${SERVICE}/mesh-daemon`), [11, 12])
})

test('groups: among strangers nobody is moved, and the group is made beside them', () => {
  const session = '/user.slice/user-1000.slice/session-2.scope'
  const files = new FakeCgroups(session)
  files.prepare(session, { pids: [7, 11, 12] })
  const { of } = findPlaces(files, OWNER)
  assert.deepEqual(files.pidsIn(session), [7, 11, 12])
  assert.equal(of.memory?.path, '/sys/fs/cgroup/user.slice/user-1000.slice/mesh-x')
  assert.deepEqual(files.groups().filter((path) => path.endsWith('mesh-x')).length, 1)
  const closed = new FakeCgroups(session, { readOnly: (path) => path.endsWith('.slice') })
  closed.prepare(session, { pids: [7, 11, 12] })
  const within = findPlaces(closed, OWNER)
  assert.deepEqual(Object.keys(within.of), ['freeze', 'kill'])
  assert.match(
    within.reasons.join('\n'),
    /memory: the memory controller is not given to .*session-2/,
  )
})

test('groups: what may not be written is done without, and each control says why', () => {
  const files = new FakeCgroups(SERVICE, { readOnly: () => true })
  files.prepare(SERVICE, { pids: [11, 12] })
  const { of, reasons } = findPlaces(files, OWNER)
  assert.deepEqual(of, {})
  assert.equal(reasons.length, ALL.length)
  for (const reason of reasons) assert.match(reason, /no control group of version 2 .*EACCES/)
  assert.deepEqual(files.pidsIn(SERVICE), [11, 12])
  const none: ControlFiles = { ...kernelControlFiles, read: () => undefined }
  assert.match(findPlaces(none, OWNER).reasons.join(), /memory: no control groups are mounted/)
})

test('groups: limits, shares and quotas of version 2', async () => {
  const files = new FakeCgroups(SERVICE)
  files.prepare(SERVICE, { pids: [process.pid, process.ppid] })
  const directory = mkdtempSync(join(tmpdir(), 'mesh-groups-'))
  const groups = openGroups(directory, files)
  rmSync(directory, { recursive: true })
  const group = groups.open({ attempt: 'a-1/../x', memoryBytes: 4096, processesMax: 77 })
  const at = group.at.memory?.path.replace('/sys/fs/cgroup', '') ?? ''
  assert.match(at, /\/mesh-[0-9a-f]{16}-\d+\/build-a-1_\.\._x$/)
  const value = (name: string): string | undefined => files.value(`${at}/${name}`)
  assert.deepEqual(
    [value('memory.max'), value('memory.swap.max'), value('pids.max')],
    ['4096', '0', '77'],
  )
  const parent = at.slice(0, at.lastIndexOf('/'))
  assert(Number(files.value(`${parent}/memory.max`)) > 2 ** 26, 'all builds together')
  group.setCpus(3, { hard: false })
  assert.deepEqual([value('cpu.weight'), value('cpu.max')], ['30', 'max 100000'])
  group.setCpus(5000, { hard: true })
  assert.deepEqual([value('cpu.weight'), value('cpu.max')], ['10000', '500000000 100000'])
  group.add(41)
  group.add(42)
  assert.equal(group.memoryHeldBytes, 1024, 'the file cache is no memory of the build')
  assert.equal(group.freeze(true), true)
  assert.equal(value('cgroup.freeze'), '1')
  assert.equal(await group.kill(systemClock()), 0)
  assert.deepEqual(files.killed, [41, 42])
  assert.equal(value('cgroup.freeze'), '0')
  await group.remove(systemClock())
  groups.close()
  assert.deepEqual(
    files.groups().filter((path) => /\/(?:mesh-[0-9a-f]{16}-|build-|trial-)/.test(path)),
    [],
  )
})

test('groups: what an executor left is killed by the next one of the same data directory, and by no other', async () => {
  const files = new FakeCgroups(SERVICE)
  files.prepare(SERVICE, { pids: [process.pid, process.ppid] })
  const directories = [0, 1].map(() => mkdtempSync(join(tmpdir(), 'mesh-groups-')))
  const [mine = '', other = ''] = directories
  openGroups(mine, files).open({ attempt: 'a', memoryBytes: undefined, processesMax: 9 }).add(41)
  openGroups(other, files).open({ attempt: 'a', memoryBytes: undefined, processesMax: 9 }).add(43)
  assert.equal(await openGroups(mine, files).endLeft(systemClock()), 0)
  assert.deepEqual(files.killed, [41])
  for (const path of directories) rmSync(path, { recursive: true })
})

/** The kernel's files, as if only one version of control groups were mounted. */
function onlyVersion(version: 1 | 2): ControlFiles {
  return {
    ...kernelControlFiles,
    read(path) {
      const text = kernelControlFiles.read(path)
      if (path !== '/proc/self/mountinfo') return text
      return text
        ?.split('\n')
        .filter((line) => line.includes(' - cgroup2 ') === (version === 2))
        .join('\n')
    },
  }
}

const found = {
  1: findHere(1),
  2: findHere(2),
} as const

/** What this machine lets be done with one version. */
function findHere(version: 1 | 2): readonly Control[] {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-groups-'))
  const groups = openGroups(directory, onlyVersion(version))
  groups.close()
  rmSync(directory, { recursive: true })
  return CONTROLS.filter((control) => groups.places.of[control] !== undefined)
}

/** On each version that has it here; machines have a control in one of them. */
function check(
  what: string,
  needs: readonly Control[],
  body: (bench: Bench, version: 1 | 2) => Promise<void>,
): void {
  const versions = ([1, 2] as const).filter((version) =>
    needs.every((control) => found[version].includes(control)),
  )
  for (const version of versions)
    test(`groups of the kernel, version ${version}: ${what}`, async () => {
      await using bench = new Bench(version)
      await body(bench, version)
    })
  if (versions.length === 0)
    test(`groups of the kernel: ${what}`, (context) =>
      context.skip(`no control groups for ${needs.join(' and ')} can be made here`))
}

/** Groups of a data directory, a build in them, and what it started. */
class Bench implements AsyncDisposable {
  readonly clock = systemClock()
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-groups-'))
  readonly groups
  readonly #children: ChildProcess[] = []

  constructor(version: 1 | 2) {
    this.groups = openGroups(this.directory, onlyVersion(version))
  }

  open(more: { readonly memoryBytes?: number; readonly processesMax?: number } = {}) {
    return this.groups.open({
      attempt: 'a-1',
      memoryBytes: more.memoryBytes,
      processesMax: more.processesMax,
    })
  }

  /** A shell that does as it is told once it is in the group. */
  async shell(script: string, group: ReturnType<Bench['open']>): Promise<ChildProcess> {
    const child = spawn('/bin/sh', ['-c', `read line; ${script}`], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.#children.push(child)
    assert(child.pid !== undefined)
    group.add(child.pid)
    child.stdin?.end('go\n')
    return child
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.groups.endLeft(this.clock)
    for (const child of this.#children) child.kill('SIGKILL')
    this.groups.close()
    rmSync(this.directory, { recursive: true })
    const left = findHierarchies(kernelControlFiles).flatMap(({ own }) =>
      kernelControlFiles
        .groupsIn(own)
        .filter((name) => this.groups.places.of.kill?.path.endsWith(name)),
    )
    assert.deepEqual(left, [], 'nothing is left behind')
  }
}

check('all that fork and flee are killed', ['kill'], async (bench) => {
  const group = bench.open()
  const shell = await bench.shell(
    'for i in 1 2 3 4 5; do (setsid sleep 1000 & exec env -i setsid sh -c "sleep 1000 & sleep 1000") & done; echo up; sleep 1000',
    group,
  )
  await once(shell.stdout ?? shell, 'data')
  const kill = group.at.kill?.path ?? ''
  await until('all are up', () => processes(kill).length > 10)
  const pids = processes(kill)
  assert.equal(await group.kill(bench.clock), 0)
  for (const pid of pids) assert.equal(findProcess(pid), undefined)
  await group.remove(bench.clock)
})

check(
  'a fork bomb is held by its limit of processes, and killed',
  ['processes', 'kill'],
  async (bench) => {
    const group = bench.open({ processesMax: 40 })
    await bench.shell('bomb() { bomb | bomb & }; bomb; sleep 1000', group)
    await until('it was refused processes', () => group.refused > 0)
    assert(processes(group.at.processes?.path ?? '').length <= 40)
    assert.equal(await group.kill(bench.clock), 0)
    await group.remove(bench.clock)
  },
)

check('frozen it does nothing, and goes on', ['freeze', 'kill'], async (bench, version) => {
  const group = bench.open()
  const shell = await bench.shell('while :; do :; done', group)
  const ticks = (): number => ticksOf(shell.pid)
  await until('it runs', () => ticks() > 2)
  assert.equal(group.freeze(true), true)
  const stateOf = (): string =>
    version === 2
      ? readFileSync(join(group.at.freeze?.path ?? '', 'cgroup.events'), 'utf8')
      : readFileSync(join(group.at.freeze?.path ?? '', 'freezer.state'), 'utf8')
  await until('it is frozen', () => /^(?:FROZEN|frozen 1)$/m.test(stateOf()))
  const before = ticks()
  // Another process has run for longer than a tick meanwhile.
  const begin = process.cpuUsage().user
  while (process.cpuUsage().user - begin < 100_000) continue
  assert.equal(ticks(), before)
  group.freeze(false)
  await until('it runs again', () => ticks() > before)
  group.freeze(true)
  assert.equal(await group.kill(bench.clock), 0, 'what is frozen is killed as well')
  await group.remove(bench.clock)
})

check('more than its memory ends it', ['memory', 'kill'], async (bench) => {
  const group = bench.open({ memoryBytes: 32 * 2 ** 20 })
  const shell = await bench.shell(`perl -e 'my $x = "a" x 200000000'; echo over`, group)
  await once(shell.stdout ?? shell, 'data')
  assert(group.oomKills > 0)
  await group.kill(bench.clock)
  await group.remove(bench.clock)
})

check('a hard limit of processors holds, a share does not', ['cpu', 'kill'], async (bench) => {
  const group = bench.open()
  const throttled = (): number =>
    numberIn(kernelControlFiles.read(join(group.at.cpu?.path ?? '', 'cpu.stat')), 'nr_throttled')
  group.setCpus(0.05, { hard: true })
  const shell = await bench.shell('while :; do :; done', group)
  await until('it was held back', () => throttled() > 0)
  group.setCpus(2, { hard: false })
  const before = throttled()
  const ticks = (): number => ticksOf(shell.pid)
  const from = ticks()
  await until('it had a good while', () => ticks() > from + 20)
  assert(throttled() <= before + 1, 'the period in which the limit went may count')
  await group.kill(bench.clock)
  await group.remove(bench.clock)
})

/** Of processor time, a hundredth of a second each. */
function ticksOf(pid: number | undefined): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ')
  return Number(text[13]) + Number(text[14])
}

const processes = (path: string): number[] =>
  (kernelControlFiles.read(join(path, 'cgroup.procs')) ?? '')
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0)
