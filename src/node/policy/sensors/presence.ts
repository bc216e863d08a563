/**
 * Whether somebody is at the machine: whoever touched it last, at a terminal (whose device is read when
 * something is typed) or at a desktop (which tells logind). Remote logins count: they wait for builds, too.
 */
import type { Presence } from '../reading.ts'
import type { MachineFiles } from './machine-files.ts'
import { idleSince, readSessions, type AskLogind } from './sessions.ts'

interface Sight {
  /** Looked up only for the one that is told. */
  readonly who: () => string
  readonly where: string
  readonly idleMs: number | undefined
}

export interface PresenceDeps {
  readonly files: MachineFiles
  /** Absent where the machine's logind cannot be asked: from a container. */
  readonly ask?: AskLogind | undefined
}

/** `missing` gets what could not be seen. */
export async function readPresence(
  { files, ask }: PresenceDeps,
  nowWallMs: number,
  missing: string[],
): Promise<Presence> {
  const sessions = readSessions(files)
  if (sessions === undefined) missing.push('no logind: there is no /run/systemd/sessions')
  const terminals = terminalsOf(files)
  // A container has terminals of its own, which say nothing of the machine.
  const hasConsole = terminals.some((name) => name.startsWith('tty'))
  if (sessions === undefined && !hasConsole) {
    missing.push('no console: there is no /dev/tty1')
    return { kind: 'unknown' }
  }
  const users = new Map((sessions ?? []).map(({ tty, user }) => [tty, user]))
  const sights: Sight[] = []
  for (const where of new Set([...terminals, ...users.keys()])) {
    const touched = where === '' ? undefined : files.touched(`dev/${where}`)
    if (touched === undefined) continue
    sights.push({
      who: () => users.get(where) ?? nameOf(files, touched.uid),
      where,
      idleMs: Math.max(0, nowWallMs - touched.atWallMs),
    })
  }
  const desktops = (sessions ?? []).filter(({ isGraphical }) => isGraphical)
  const idle =
    ask === undefined ? new Map<string, number>() : await idleSince(desktops, ask, nowWallMs)
  for (const { id, user, where } of desktops) {
    const idleMs = idle.get(id)
    if (idleMs === undefined) missing.push(`nothing tells whether ${user} is idle (${where})`)
    sights.push({ who: () => user, where, idleMs })
  }
  const [last] = sights.toSorted((a, b) => (a.idleMs ?? -1) - (b.idleMs ?? -1))
  return last === undefined ? { kind: 'nobody' } : { kind: 'somebody', ...last, who: last.who() }
}

/** Consoles of the machine and terminals of windows and remote logins, as names below `/dev`. */
function terminalsOf(files: MachineFiles): string[] {
  const consoles = (files.list('dev') ?? []).filter((name) => /^tty[1-9]\d?$/.test(name))
  const windows = (files.list('dev/pts') ?? []).filter((name) => /^\d+$/.test(name))
  return [...consoles, ...windows.map((name) => `pts/${name}`)]
}

/** O(users of the machine), for terminals that no session is known of. */
function nameOf(files: MachineFiles, uid: number): string {
  for (const line of (files.read('etc/passwd') ?? '').split('\n')) {
    const [name, , id] = line.split(':')
    if (name !== undefined && name !== '' && id === String(uid)) return name
  }
  return `user ${uid}`
}
