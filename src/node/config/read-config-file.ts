/** Which file the configuration is read from: the one that was named, else the first of the usual places. */
import { join, resolve } from 'node:path'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { CommandLine } from './command-line.ts'
import { ConfigFile } from './config-file.ts'
import type { ConfigIo, Env } from './config-io.ts'
import { parseAbsolutePath } from './config-values.ts'

/** Undefined when none was named and none is there. Throws MESH0104 and MESH0201. */
export function readConfigFile(
  flags: CommandLine['flags'],
  env: Env,
  io: ConfigIo,
): ConfigFile | undefined {
  const flag = flags.get('config')?.at(-1)
  const explicit = flag ?? (env['MESH_CONFIG'] || undefined)
  const configHome = parseAbsolutePath(env['XDG_CONFIG_HOME']) ?? join(io.home, '.config')
  const paths =
    explicit === undefined
      ? [join(configHome, 'mesh/mesh.toml'), '/etc/mesh/mesh.toml']
      : [resolve(io.cwd, explicit)]
  for (const path of paths) {
    let text: string | undefined
    try {
      text = io.readFile(path)
    } catch (error) {
      const message = `the configuration file cannot be read: ${messageOf(error)}`
      throw new MeshError('MESH0104', message, { where: path, cause: error })
    }
    if (text !== undefined) return new ConfigFile(path, text)
  }
  if (explicit === undefined) return undefined
  const source = flag === undefined ? 'MESH_CONFIG' : '--config'
  throw new MeshError('MESH0104', `${source} ${JSON.stringify(explicit)}: there is no such file`, {
    where: paths.join(),
  })
}
