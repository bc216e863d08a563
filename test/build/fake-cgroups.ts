/**
 * Control groups of version 2 in memory, with the rules of the kernel that matter to who uses them: files
 * come with the controllers that the parent gives, a group with processes gives none to its children, and
 * none is removed while something is in it.
 */
import type { ControlFiles } from '../../src/build/groups/control-files.ts'

/** Processes of other groups are in the root. */
const MOUNT = '/sys/fs/cgroup'
const OF_CONTROLLER: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  memory: {
    'memory.max': 'max\n',
    'memory.swap.max': 'max\n',
    'memory.stat': 'anon 1000\nfile 500000\nshmem 24\n',
    'memory.events': 'low 0\noom 0\noom_kill 0\n',
  },
  pids: { 'pids.max': 'max\n', 'pids.events': 'max 0\n' },
  cpu: { 'cpu.weight': '100\n', 'cpu.max': 'max 100000\n' },
}

interface Group {
  readonly values: Map<string, string>
  readonly given: Set<string>
  readonly pids: Set<number>
}

export class FakeCgroups implements ControlFiles {
  readonly killed: number[] = []
  readonly #groups = new Map<string, Group>()
  readonly #own: string
  readonly #readOnly: (path: string) => boolean

  /** `own` is the group of the process that asks, as /proc/self/cgroup tells it. */
  constructor(own: string, options: { readonly readOnly?: (path: string) => boolean } = {}) {
    this.#own = own
    this.#readOnly = options.readOnly ?? (() => false)
    this.#groups.set('', { values: new Map(), given: new Set(), pids: new Set() })
  }

  /** Makes a group as somebody else would, with all controllers down to it. */
  prepare(path: string, { pids }: { readonly pids: readonly number[] }): void {
    let at = ''
    for (const name of path.split('/').filter((word) => word !== '')) {
      for (const controller of Object.keys(OF_CONTROLLER)) this.#of(at).given.add(controller)
      at = `${at}/${name}`
      if (!this.#groups.has(at)) this.#create(at)
    }
    for (const pid of pids) this.#of(at).pids.add(pid)
  }

  pidsIn(path: string): number[] {
    return [...this.#of(path).pids]
  }

  groups(): string[] {
    return [...this.#groups.keys()].filter((path) => path !== '')
  }

  read(path: string): string | undefined {
    if (path === '/proc/self/cgroup') return `0::${this.#own}\n`
    if (path === '/proc/self/mountinfo')
      return `31 23 0:28 / ${MOUNT} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n`
    const [at, name] = split(path)
    const group = this.#groups.get(at)
    if (group === undefined) return undefined
    switch (name) {
      case 'cgroup.procs':
        return [...group.pids].map((pid) => `${pid}\n`).join('')
      case 'cgroup.type':
      case 'cgroup.freeze':
      case 'cgroup.kill':
        return at === '' ? undefined : (group.values.get(name) ?? '0\n')
      case 'cgroup.controllers':
        return `${this.#controllers(at).join(' ')}\n`
      case 'cgroup.subtree_control':
        return `${[...group.given].join(' ')}\n`
      default:
        return group.values.get(name)
    }
  }

  write(path: string, text: string): void {
    const [at, name] = split(path)
    const group = this.#groups.get(at)
    if (group === undefined) throw errno('ENOENT', path)
    if (this.#readOnly(at)) throw errno('EACCES', path)
    if (name === 'cgroup.procs') {
      if (group.given.size > 0 && at !== '') throw errno('EBUSY', path)
      for (const other of this.#groups.values()) other.pids.delete(Number(text))
      group.pids.add(Number(text))
    } else if (name === 'cgroup.subtree_control') {
      const controller = text.replace('+', '')
      if (!this.#controllers(at).includes(controller)) throw errno('ENOENT', path)
      if (at !== '' && group.pids.size > 0) throw errno('EBUSY', path)
      group.given.add(controller)
      for (const [child, { values }] of this.#groups)
        if (parentOf(child) === at)
          for (const [file, value] of Object.entries(OF_CONTROLLER[controller] ?? {}))
            values.set(file, value)
    } else if (name === 'cgroup.kill') {
      this.killed.push(...group.pids)
      group.pids.clear()
    } else if (name === 'cgroup.freeze' || group.values.has(name)) group.values.set(name, text)
    else throw errno('EACCES', path)
  }

  make(path: string): void {
    const at = path.slice(MOUNT.length)
    if (this.#groups.has(at)) throw errno('EEXIST', path)
    if (!this.#groups.has(parentOf(at))) throw errno('ENOENT', path)
    if (this.#readOnly(parentOf(at))) throw errno('EACCES', path)
    this.#create(at)
  }

  remove(path: string): void {
    const at = path.slice(MOUNT.length)
    const group = this.#groups.get(at)
    if (group === undefined) throw errno('ENOENT', path)
    if (group.pids.size > 0 || this.groupsIn(path).length > 0) throw errno('EBUSY', path)
    this.#groups.delete(at)
  }

  groupsIn(path: string): string[] {
    const at = path.slice(MOUNT.length)
    return [...this.#groups.keys()]
      .filter((child) => child !== '' && parentOf(child) === at)
      .map((child) => child.slice(at.length + 1))
  }

  /** What a file of a group says, without its mount. */
  value(path: string): string | undefined {
    return this.read(`${MOUNT}${path}`)
  }

  #controllers(at: string): string[] {
    return at === '' ? Object.keys(OF_CONTROLLER) : [...this.#of(parentOf(at)).given]
  }

  #create(at: string): void {
    const values = new Map<string, string>()
    for (const controller of this.#of(parentOf(at)).given)
      for (const [file, value] of Object.entries(OF_CONTROLLER[controller] ?? {}))
        values.set(file, value)
    this.#groups.set(at, { values, given: new Set(), pids: new Set() })
  }

  #of(at: string): Group {
    const group = this.#groups.get(at)
    if (group === undefined) throw errno('ENOENT', at)
    return group
  }
}

function split(path: string): [at: string, name: string] {
  const end = path.lastIndexOf('/')
  return [path.slice(MOUNT.length, end), path.slice(end + 1)]
}

const parentOf = (at: string): string => at.slice(0, at.lastIndexOf('/'))

function errno(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code })
}
