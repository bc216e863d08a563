/** Settings whose defaults hang on the machine and on each other: the data directory, the name, the roles. */
import { join, resolve } from 'node:path'
import { ROLES, type Role } from '../../wire/api.ts'
import type { ConfigIo, Env } from './config-io.ts'
import { parseAbsolutePath } from './config-values.ts'
import type { Settings } from './settings.ts'

/** With all of them filled in; `allow` may stay open. */
export type FilledSettings = Settings & {
  readonly node: { readonly data: string; readonly name: string; readonly roles: readonly Role[] }
}

export function fillIn(
  settings: Settings,
  env: Env,
  io: ConfigIo,
  options: { readonly dataBase: string },
): FilledSettings {
  const { node } = settings
  const roles: readonly Role[] =
    node.roles ?? (node.parents.length === 0 ? ['root', 'worker', 'store'] : ['worker', 'store'])
  return {
    ...settings,
    node: {
      ...node,
      data: resolve(options.dataBase, node.data ?? defaultData(env, io)),
      name: node.name ?? nameOfHost(io.hostname),
      roles: ROLES.filter((role) => roles.includes(role)),
    },
  }
}

function defaultData(env: Env, io: ConfigIo): string {
  // systemd gives a list with colons when a unit has several.
  const ofService = parseAbsolutePath(env['STATE_DIRECTORY']?.split(':')[0])
  if (ofService !== undefined) return ofService
  const dataHome = parseAbsolutePath(env['XDG_DATA_HOME'])
  if (dataHome !== undefined) return join(dataHome, 'mesh')
  return io.isRoot ? '/var/lib/mesh' : join(io.home, '.local/share/mesh')
}

function nameOfHost(host: string): string {
  const clean = host.replaceAll(/[^A-Za-z0-9_.-]/g, '-').replace(/^[^A-Za-z0-9]+/, '')
  return clean === '' ? 'node' : clean.slice(0, 63)
}
