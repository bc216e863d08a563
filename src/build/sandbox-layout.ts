/**
 * What a sealed build sees of the file system, as a list of mounts and links that each sandbox method
 * turns into its own language.
 */
import {
  access,
  lstat,
  mkdir,
  mkdtemp,
  readlink,
  realpath,
  rename,
  rmdir,
  stat,
  writeFile,
} from 'node:fs/promises'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../base/errors.ts'
import type { BuildSpec } from './executor-protocol.ts'

/** In the order in which they are made, links last: then no mount can go through a link. */
export interface Place {
  /** `default`: a file, unless an image has something there. */
  readonly kind: 'dir' | 'file' | 'default' | 'rw' | 'dev' | 'link'
  /** Path on the host; for a link its target. */
  readonly from: string
  /** Path in the sandbox. */
  readonly at: string
}

/** The host's half of the layout, found out once. */
export interface HostLayout {
  /** An empty directory to mount the new root on. */
  readonly root: string
  readonly tools: readonly Place[]
  /** Made-up files of /etc. */
  readonly etc: readonly Place[]
  readonly devices: readonly Place[]
  /** What only a build with network sees. */
  readonly network: readonly Place[]
  /** Who builds are outside of their user namespace: an unprivileged identity of its own when we are root. */
  readonly uid: number
  readonly gid: number
}

/** The identity of builds in their sandbox. */
export const INNER_ID = 1000
/** Identities for builds of a daemon that is root, best first: one that nothing else uses, and `nobody`. */
const OUTER_IDS = [0x35000000, 65534] as const

const TOOLS = [
  '/usr',
  '/bin',
  '/sbin',
  '/lib',
  '/lib32',
  '/lib64',
  '/libx32',
  '/etc/alternatives',
  '/etc/ld.so.cache',
]
const DEVICES = ['null', 'zero', 'full', 'random', 'urandom']
const NETWORK = [
  '/etc/resolv.conf',
  '/etc/services',
  '/etc/protocols',
  '/etc/ssl/certs',
  '/etc/pki/tls/certs',
  '/etc/pki/ca-trust',
  '/etc/ca-certificates',
]
const ETC = {
  passwd: `root:x:0:0:root:/build/home:/bin/sh\nbuild:x:${INNER_ID}:${INNER_ID}:build:/build/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n`,
  group: `root:x:0:\nbuild:x:${INNER_ID}:\nnogroup:x:65534:\n`,
  hosts: '127.0.0.1 localhost mesh\n::1 localhost\n',
  'nsswitch.conf':
    'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n',
} as const
/** Directory of an attempt in which its build is told things while it runs. */
export const CONTROL = 'control'
/** Directories of an attempt that its build may write. */
export const WRITABLE = ['work', 'out', 'home', 'tmp'] as const
/** Directory of an attempt for what its build changes in its image. */
export const CHANGES = 'changes'

/** Looks at the host and writes the made-up files of /etc below `directory`. */
export async function readHostLayout(directory: string): Promise<HostLayout> {
  const root = join(directory, 'root')
  const etc = join(directory, 'etc')
  await mkdir(root, { recursive: true })
  await mkdir(etc, { recursive: true, mode: 0o755 })
  const tools: Place[] = []
  const made: Place[] = []
  const fresh = await mkdtemp(join(directory, 'etc-'))
  for (const [name, content] of Object.entries(ETC)) {
    // By rename: a build of an earlier executor may have the old file mounted.
    await writeFile(join(fresh, name), content, { mode: 0o644 })
    await rename(join(fresh, name), join(etc, name))
    made.push({ kind: 'file', from: join(etc, name), at: `/etc/${name}` })
  }
  await rmdir(fresh)
  for (const path of TOOLS) tools.push(...(await hostPlace(path)))
  const devices = DEVICES.map((name) => deviceAt(`/dev/${name}`))
  const network: Place[] = []
  for (const path of NETWORK) {
    const place = (await hostPlace(path))[0]
    if (place === undefined) continue
    // Links out of /etc would dangle: their targets are mounted in their place.
    if (place.kind === 'link') {
      const target = await realpath(path).catch(ignoreAbsent)
      if (target === undefined) continue
      network.push({
        kind: (await stat(target)).isDirectory() ? 'dir' : 'file',
        from: target,
        at: path,
      })
    } else network.push(place)
  }
  return { root, tools, etc: made, devices, network, ...outerIds() }
}

/** Every place of one build, in order. */
export function placesOf(layout: HostLayout, spec: BuildSpec): Place[] {
  const places: Place[] =
    spec.image === undefined
      ? [...layout.etc, ...layout.tools, ...layout.devices]
      : [...layout.etc.map(besideImage), ...layout.devices]
  for (const path of spec.devices ?? []) places.push(deviceAt(path))
  if (spec.network) places.push(...layout.network)
  for (const name of WRITABLE)
    places.push({ kind: 'rw', from: join(spec.directory, name), at: `/build/${name}` })
  places.push({ kind: 'rw', from: join(spec.directory, 'tmp'), at: '/tmp' })
  if (spec.jobs !== undefined)
    places.push({ kind: 'dir', from: join(spec.directory, CONTROL), at: `/build/${CONTROL}` })
  for (const { path, source } of spec.inputs)
    places.push(
      source.kind === 'symlink'
        ? { kind: 'link', from: source.target, at: path }
        : { kind: source.kind, from: source.hostPath, at: path },
    )
  places.push(
    ...(spec.image === undefined ? [VAR_TMP] : []),
    { kind: 'link', from: '/proc/self/fd', at: '/dev/fd' },
    { kind: 'link', from: '/proc/self/fd/0', at: '/dev/stdin' },
    { kind: 'link', from: '/proc/self/fd/1', at: '/dev/stdout' },
    { kind: 'link', from: '/proc/self/fd/2', at: '/dev/stderr' },
  )
  return [
    ...places.filter((place) => place.kind !== 'link'),
    ...places.filter((place) => place.kind === 'link'),
  ]
}

/** An image has its own; the build may write in it. */
const VAR_TMP: Place = { kind: 'link', from: '/tmp', at: '/var/tmp' }

const deviceAt = (path: string): Place => ({ kind: 'dev', from: path, at: path })

/** Names of hosts are those of the sandbox; of users and groups an image may have its own. */
const besideImage = (place: Place): Place =>
  place.at === '/etc/hosts' ? place : { ...place, kind: 'default' }

async function hostPlace(path: string): Promise<Place[]> {
  const found = await lstat(path).catch(ignoreAbsent)
  if (found === undefined) return []
  if (found.isSymbolicLink()) return [{ kind: 'link', from: await readlink(path), at: path }]
  await access(path)
  return [{ kind: found.isDirectory() ? 'dir' : 'file', from: path, at: path }]
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error
}

/** Where this process is root, an identity without rights that the current user namespace knows. */
export function outerIds(): { uid: number; gid: number } {
  const uid = process.geteuid?.() ?? 0
  const gid = process.getegid?.() ?? 0
  if (uid !== 0) return { uid, gid }
  const outer = OUTER_IDS.find(
    (id) => isMapped('/proc/self/uid_map', id) && isMapped('/proc/self/gid_map', id),
  )
  return outer === undefined ? { uid, gid } : { uid: outer, gid: outer }
}

function isMapped(file: string, id: number): boolean {
  return readFileSync(file, 'utf8')
    .split('\n')
    .some((line) => {
      const [first = Number.NaN, , count = 0] = line.trim().split(/\s+/).map(Number)
      return id >= first && id < first + count
    })
}
