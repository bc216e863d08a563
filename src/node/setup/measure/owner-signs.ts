/**
 * What shows that somebody sits at a machine, and not only that it runs: a desktop, a battery, the case of a
 * notebook. Lasting facts; who is there at the moment is for the policies.
 */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode } from '../../../base/errors.ts'
import { isSessionFile, valuesOf } from '../../policy/sensors/sessions.ts'

export interface OwnerSigns {
  /** One line each, with what was seen and where. */
  readonly signs: readonly string[]
  readonly hasBattery: boolean
}

const ENTRIES_MAX = 1_000
/** Portable, laptop, notebook, sub notebook, tablet, convertible, detachable (SMBIOS 7.4.1). */
const PORTABLE_CASES = ['8', '9', '10', '14', '30', '31', '32']

export async function findOwnerSigns(root = '/'): Promise<OwnerSigns> {
  const battery = await findBattery(root)
  const chassis = (await read(join(root, 'sys/class/dmi/id/chassis_type'))).trim()
  return {
    signs: [
      ...(await graphicalSessions(root)),
      ...(await desktop(root)),
      ...(battery === undefined ? [] : [`it has a battery (${battery})`]),
      ...(PORTABLE_CASES.includes(chassis)
        ? [`its case is that of a notebook (type ${chassis})`]
        : []),
    ],
    hasBattery: battery !== undefined,
  }
}

/** Not that of a mouse, which has the scope "Device". */
async function findBattery(root: string): Promise<string | undefined> {
  const supplies = join(root, 'sys/class/power_supply')
  for (const name of await list(supplies)) {
    const type = (await read(join(supplies, name, 'type'))).trim()
    const scope = (await read(join(supplies, name, 'scope'))).trim()
    if (type === 'Battery' && scope !== 'Device') return name
  }
  return undefined
}

/** sd-login(3) keeps one file of assignments per session. */
async function graphicalSessions(root: string): Promise<string[]> {
  const sessions = join(root, 'run/systemd/sessions')
  for (const name of (await list(sessions)).filter(isSessionFile)) {
    const values = valuesOf(await read(join(sessions, name)))
    const type = values.get('TYPE') ?? ''
    if (['x11', 'wayland', 'mir'].includes(type))
      return [
        `${values.get('USER') ?? 'somebody'} has a graphical session (${type}, session ${name})`,
      ]
  }
  return []
}

/** One that comes up at boot, whoever is there now. */
async function desktop(root: string): Promise<string[]> {
  const manager = await target(join(root, 'etc/systemd/system/display-manager.service'))
  if (manager !== undefined)
    return [`a desktop starts at boot (${manager.slice(manager.lastIndexOf('/') + 1)})`]
  const [display] = await list(join(root, 'tmp/.X11-unix'))
  return display === undefined ? [] : [`there is a display (/tmp/.X11-unix/${display})`]
}

async function list(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).toSorted().slice(0, ENTRIES_MAX)
  } catch (error) {
    if (isNotThere(error)) return []
    throw error
  }
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isNotThere(error)) return ''
    throw error
  }
}

async function target(path: string): Promise<string | undefined> {
  try {
    return await readlink(path)
  } catch (error) {
    if (isNotThere(error)) return undefined
    throw error
  }
}

/** Absent, not ours to read, or a device that went away while it was read. */
const isNotThere = (error: unknown): boolean =>
  hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'EPERM', 'EINVAL', 'ENODEV', 'EISDIR')
