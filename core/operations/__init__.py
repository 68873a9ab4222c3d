"""Long work as a resource: frozen items in Postgres, done in bounded chunks by any number of workers, each of which may be killed."""
