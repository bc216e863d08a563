/** Which file the configuration is read from: the one that was named, else the first of the usual places. */
import { join, resolve } from 'node:path'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { CommandLine } from './command-line.ts'
import { ConfigFile } from './config-file.ts'
import type { ConfigIo, Env } from './config-io.ts'
import { parseAbsolutePath } from './config-values.ts'

/** Where a configuration is looked for: the file that was named, relative to the working directory, or each of the usual ones. */
export function configPlaces(
  flags: CommandLine['flags'],
  env: Env,
  io: ConfigIo,
): { readonly named: string | undefined; readonly ofUser: string; readonly ofMachine: string } {
  const configHome = parseAbsolutePath(env['XDG_CONFIG_HOME']) ?? join(io.home, '.config')
  return {
    named: flags.get('config')?.at(-1) ?? (env['MESH_CONFIG'] || undefined),
    ofUser: join(configHome, 'mesh/mesh.toml'),
    ofMachine: '/etc/mesh/mesh.toml',
  }
}

/** Undefined when none was named and none is there. Throws MESH0104 and MESH0201. */
export function readConfigFile(
  flags: CommandLine['flags'],
  env: Env,
  io: ConfigIo,
): ConfigFile | undefined {
  const { named, ofUser, ofMachine } = configPlaces(flags, env, io)
  const paths = named === undefined ? [ofUser, ofMachine] : [resolve(io.cwd, named)]
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
  if (named === undefined) return undefined
  const source = flags.has('config') ? '--config' : 'MESH_CONFIG'
  throw new MeshError('MESH0104', `${source} ${JSON.stringify(named)}: there is no such file`, {
    where: paths.join(),
  })
}
